// Package minions stands in for what surrounds a Kubernetes master in a cloud: machines that register as nodes, a load
// balancer that gives services their addresses, and the container of Binder's `proxy-server` pod.
//
// KWOK, a process of its own, makes the registered nodes Ready and the pods Running; no container runs anywhere. The
// one pod whose container must really answer is Binder's proxy, so this package runs configurable-http-proxy for as
// long as that pod exists.
//
// It is an ordinary client of the API server and must not know how that server is run. The server may be away for any
// length of time: what runs keeps running, and what was missed is made up for within seconds of its return.
package minions

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// namespace is where `binder-deploy-kubernetes` creates its pod and its services.
const namespace = "default"

// The services of `binder-deploy-kubernetes`: the proxy's port for users and the proxy's port for its API.
const (
	lookupService       = "proxy-lookup"
	registrationService = "proxy-registration"
)

// options are the command line, checked.
type options struct {
	kubeconfig string
	addresses  map[string]netip.Addr // by the name of the service
	proxy      string                // the program of configurable-http-proxy; empty: none is run
	nodes      int
}

// Main runs until SIGTERM or SIGINT, and returns the exit code.
func Main(args []string) int {
	opts, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "minions:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, "minions:", err)
		return 1
	}
	return 0
}

func parse(args []string) (options, error) {
	opts := options{addresses: map[string]netip.Addr{}}
	flags := flag.NewFlagSet("minions", flag.ContinueOnError)
	flags.StringVar(&opts.kubeconfig, "kubeconfig", "", "`FILE` that names the API server and a user who may do anything")
	flags.StringVar(&opts.proxy, "chp", "", "`PROGRAM` of configurable-http-proxy; without it the pod proxy-server stays hollow")
	flags.IntVar(&opts.nodes, "nodes", 2, "how many nodes register")
	flags.Func("address", "`SERVICE=ADDRESS` given to a service of type LoadBalancer; may be repeated", func(text string) error {
		service, address, found := strings.Cut(text, "=")
		if !found || service == "" {
			return errors.New("write SERVICE=ADDRESS, such as " + lookupService + "=198.18.0.30")
		}
		parsed, err := netip.ParseAddr(address)
		if err != nil {
			return err
		}
		opts.addresses[service] = parsed
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	switch {
	case flags.NArg() > 0:
		return options{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case opts.kubeconfig == "":
		return options{}, errors.New("--kubeconfig is needed")
	case opts.nodes < 0:
		return options{}, fmt.Errorf("--nodes %d: cannot be negative", opts.nodes)
	}
	if opts.proxy != "" {
		for _, service := range []string{lookupService, registrationService} {
			if !opts.addresses[service].IsValid() {
				return options{}, fmt.Errorf("--chp needs an --address for %s: the proxy listens on it", service)
			}
		}
	}
	return opts, nil
}

func run(ctx context.Context, opts options) error {
	config, err := clientcmd.BuildConfigFromFlags("", opts.kubeconfig)
	if err != nil {
		return err
	}
	config.UserAgent = "lab-minions"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}

	var jobs []func(context.Context)
	if opts.nodes > 0 {
		jobs = append(jobs, registrar{client, opts.nodes}.run)
	}
	if len(opts.addresses) > 0 {
		jobs = append(jobs, balancer{client, opts.addresses}.run)
	}
	if opts.proxy != "" {
		container := &container{
			program: opts.proxy,
			lookup:  opts.addresses[lookupService],
			api:     opts.addresses[registrationService],
		}
		jobs = append(jobs, kubelet{client, container}.run)
	}

	klog.InfoS("Serving", "server", config.Host, "nodes", opts.nodes, "addresses", opts.addresses, "proxy", opts.proxy)
	var done sync.WaitGroup
	for _, job := range jobs {
		done.Go(func() { job(ctx) })
	}
	done.Wait()
	return nil
}
