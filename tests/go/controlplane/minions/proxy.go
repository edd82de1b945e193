package minions

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	// proxyPod is the pod that `binder-deploy-kubernetes` creates for configurable-http-proxy.
	proxyPod = "proxy-server"
	// tokenVariable holds, in that pod and for the program, the token of the proxy's API.
	tokenVariable = "CONFIGPROXY_AUTH_TOKEN"
	// proxyPort is both the port for users and, on the other address, the port of the API: that of the services, as
	// nothing here translates ports.
	proxyPort = "80"
	// restartAfter is the wait before a proxy that ended by itself runs again.
	restartAfter = time.Second
	// graceful is how long the proxy may take to end.
	graceful = 5 * time.Second
)

// kubelet runs the one container of the lab that is real.
type kubelet struct {
	client    kubernetes.Interface
	container *container
}

func (k kubelet) run(ctx context.Context) {
	defer k.container.stop()
	source := cache.NewListWatchFromClient(k.client.CoreV1().RESTClient(), "pods", namespace,
		fields.OneTermEqualSelector("metadata.name", proxyPod))
	follow(ctx, "pods", source, &core.Pod{}, k.sync)
}

// sync makes the container be what the pod asks for. It starts when the pod exists, not when it is scheduled: KWOK
// calls a pod Ready within milliseconds of that, and Binder talks to the proxy at once.
func (k kubelet) sync(_ context.Context, pods []*core.Pod) error {
	for _, pod := range pods {
		if pod.Name != proxyPod || pod.DeletionTimestamp != nil ||
			pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed {
			continue
		}
		token, err := tokenOf(pod)
		if err != nil {
			k.container.stop()
			return err
		}
		k.container.ensure(identity{pod.UID, token})
		return nil
	}
	k.container.stop()
	return nil
}

func tokenOf(pod *core.Pod) (string, error) {
	for _, container := range pod.Spec.Containers {
		for _, variable := range container.Env {
			if variable.Name == tokenVariable && variable.Value != "" {
				return variable.Value, nil
			}
		}
	}
	return "", fmt.Errorf("pod %s: no container has %s set to a plain value", pod.Name, tokenVariable)
}

// identity tells one life of the container from the next.
type identity struct {
	pod   types.UID
	token string
}

// container is configurable-http-proxy as a process of this machine.
type container struct {
	program     string
	lookup, api netip.Addr

	running identity // of what cancel and ended belong to
	cancel  context.CancelFunc
	ended   chan struct{}
}

// ensure lets the proxy run for this pod, and ends one that ran for another.
func (c *container) ensure(wanted identity) {
	if c.cancel != nil && c.running == wanted {
		return
	}
	c.stop()
	ctx, cancel := context.WithCancel(context.Background())
	c.running, c.cancel, c.ended = wanted, cancel, make(chan struct{})
	go c.keep(ctx, wanted.token, c.ended)
}

// stop returns when the proxy has ended. It is no error if none runs.
func (c *container) stop() {
	if c.cancel == nil {
		return
	}
	c.cancel()
	<-c.ended
	c.cancel = nil
}

// keep runs the proxy again and again until ctx ends, as a kubelet does.
func (c *container) keep(ctx context.Context, token string, ended chan<- struct{}) {
	defer close(ended)
	// The child is to end with us even when we are killed, and Linux ties that signal to the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	for {
		command := exec.CommandContext(ctx, c.program,
			"--ip", c.lookup.String(), "--port", proxyPort, "--api-ip", c.api.String(), "--api-port", proxyPort)
		command.Env = append(os.Environ(), tokenVariable+"="+token)
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
		command.WaitDelay = graceful

		klog.InfoS("Starting the proxy", "program", c.program, "lookup", c.lookup, "api", c.api)
		err := command.Run()
		if ctx.Err() != nil {
			klog.InfoS("Stopped the proxy")
			return
		}
		klog.ErrorS(err, "The proxy ended by itself, starting it again", "after", restartAfter)
		select {
		case <-ctx.Done():
			return
		case <-time.After(restartAfter):
		}
	}
}
