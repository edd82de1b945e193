// Command controlplane is every part of the lab's Kubernetes control planes in one binary.
//
// Which part it is comes from the first argument, or, when the binary is called through a link named after a part
// (`kube-apiserver`, `etcd`, `kubectl`, ...), from that name, so that a folder of links serves as KUBEBUILDER_ASSETS.
// One binary is one link step and one copy of the libraries that all parts share: that is most of the time and most of
// the megabytes of five binaries.
//
// It must not know anything of the lab: what runs where, with which flags, is decided by the caller.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // a CronJob may name a time zone that the machine has no file for

	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	"github.com/binder-project/binder-operator/tests/go/controlplane/minions"
)

// parts lists what this binary can be. Each runs with os.Args set as if it were a binary of its own, and returns the
// exit code.
var parts = map[string]func() int{
	"etcd": func() int {
		etcdmain.Main(os.Args)
		return 0
	},
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubectl":                 kubectl,
	"minions":                 func() int { return minions.Main(os.Args[1:]) },
}

func main() {
	part, args, ok := choose(os.Args)
	if !ok {
		fmt.Fprintf(os.Stderr, "usage: %s PART [ARGUMENT...], PART one of %s; or a link named after a PART\n",
			filepath.Base(os.Args[0]), strings.Join(names(), ", "))
		os.Exit(2)
	}
	os.Args = args
	os.Exit(parts[part]())
}

// choose tells which part is meant, and the arguments (the part's name first) that it is to see.
func choose(args []string) (part string, rest []string, ok bool) {
	if len(args) == 0 {
		return "", nil, false
	}
	if name := filepath.Base(args[0]); parts[name] != nil {
		return name, args, true
	}
	if len(args) > 1 && parts[args[1]] != nil {
		return args[1], args[1:], true
	}
	return "", nil, false
}

func names() []string {
	all := make([]string, 0, len(parts))
	for name := range parts {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// kubectl reads its verbosity before its flags are parsed, as plugins and the kuberc file are handled that early.
func kubectl() int {
	_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args)) // a bad level is said again by the flags
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // prints in kubectl's way, and exits
	}
	return 0
}
