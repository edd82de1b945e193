package minions

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

func TestTheCommandLineIsChecked(t *testing.T) {
	lookup, registration := "--address=proxy-lookup=198.18.0.30", "--address=proxy-registration=198.18.0.31"
	for complaint, args := range map[string][]string{
		"--kubeconfig is needed":                      {lookup},
		"write SERVICE=ADDRESS":                       {"--kubeconfig=k", "--address=198.18.0.30"},
		"unable to parse IP":                          {"--kubeconfig=k", "--address=proxy-lookup=here"},
		"--chp needs an --address for proxy-lookup":   {"--kubeconfig=k", "--chp=proxy", registration},
		"--chp needs an --address for proxy-registra": {"--kubeconfig=k", "--chp=proxy", lookup},
		"cannot be negative":                          {"--kubeconfig=k", "--nodes=-1"},
		`unexpected argument "more"`:                  {"--kubeconfig=k", "more"},
	} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%q: wanted %q, got %v", args, complaint, err)
		}
	}
	opts, err := parse([]string{"--kubeconfig=k", "--chp=proxy", lookup, registration})
	if err != nil {
		t.Fatal(err)
	}
	if opts.nodes != 2 || opts.addresses[registrationService] != netip.MustParseAddr("198.18.0.31") {
		t.Errorf("got %+v", opts)
	}
}

func TestMissingNodesRegister(t *testing.T) {
	present := node("kubernetes-minion-2")
	client := fake.NewClientset(present)
	if err := (registrar{client, 3}).register(t.Context(), []*core.Node{present}); err != nil {
		t.Fatal(err)
	}
	created := verbs(client)
	if created != "create nodes, create nodes" {
		t.Errorf("did %q", created)
	}
	// The list can be older than the nodes: that is no error.
	if err := (registrar{client, 3}).register(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestOnlyOurServicesGetAnAddressAndOnlyOnce(t *testing.T) {
	service := func(name string, kind core.ServiceType) *core.Service {
		return &core.Service{
			ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       core.ServiceSpec{Type: kind},
		}
	}
	ours := service(lookupService, core.ServiceTypeLoadBalancer)
	internal := service(registrationService, core.ServiceTypeClusterIP)
	others := service("kubernetes", core.ServiceTypeLoadBalancer)
	client := fake.NewClientset(ours, internal, others)
	balancer := balancer{client, map[string]netip.Addr{
		lookupService:       netip.MustParseAddr("198.18.0.30"),
		registrationService: netip.MustParseAddr("198.18.0.31"),
	}}
	if err := balancer.assign(t.Context(), []*core.Service{ours, internal, others}); err != nil {
		t.Fatal(err)
	}
	if did := verbs(client); did != "patch services/status" {
		t.Errorf("did %q", did)
	}
	after, err := client.CoreV1().Services(namespace).Get(t.Context(), lookupService, meta.GetOptions{})
	if err != nil || !has(after, balancer.addresses[lookupService]) {
		t.Fatalf("got %v, %v", after, err)
	}
	client.ClearActions()
	if err := balancer.assign(t.Context(), []*core.Service{after}); err != nil || len(client.Actions()) > 0 {
		t.Errorf("again: did %q, %v", verbs(client), err)
	}
}

func TestTheProxyFollowsItsPod(t *testing.T) {
	said := filepath.Join(t.TempDir(), "said")
	program := script(t, fmt.Sprintf("trap 'rm %[1]s; exit 0' TERM\necho \"$* $CONFIGPROXY_AUTH_TOKEN\" > %[1]s\nwhile :; do sleep 0.05; done\n", said))
	kubelet := kubelet{fake.NewClientset(), &container{
		program: program, lookup: netip.MustParseAddr("198.18.0.30"), api: netip.MustParseAddr("198.18.0.31"),
	}}
	defer kubelet.container.stop()
	running := func(token string) func() bool {
		want := "--ip 198.18.0.30 --port 80 --api-ip 198.18.0.31 --api-port 80 " + token + "\n"
		return func() bool {
			got, _ := os.ReadFile(said)
			return string(got) == want
		}
	}
	gone := func() bool { _, err := os.Stat(said); return os.IsNotExist(err) }
	sync := func(pods ...*core.Pod) {
		t.Helper()
		if err := kubelet.sync(t.Context(), pods); err != nil {
			t.Fatal(err)
		}
	}

	sync(pod("1", "sesame"))
	eventually(t, running("sesame"))
	first := kubelet.container.ended
	sync(pod("1", "sesame"))
	if kubelet.container.ended != first {
		t.Error("the same pod restarted the proxy")
	}
	sync(pod("2", "other"))
	eventually(t, running("other"))
	leaving := pod("2", "other")
	leaving.DeletionTimestamp = &meta.Time{Time: time.Now()}
	sync(leaving)
	if !gone() {
		t.Error("the proxy outlived its pod")
	}
	sync()

	if err := kubelet.sync(t.Context(), []*core.Pod{pod("3", "")}); err == nil || !strings.Contains(err.Error(), tokenVariable) {
		t.Errorf("a pod without a token: %v", err)
	}
}

func TestAProxyThatEndsIsStartedAgain(t *testing.T) {
	counted := filepath.Join(t.TempDir(), "counted")
	container := &container{program: script(t, "echo once >> "+counted+"\nexit 1\n")}
	container.ensure(identity{"1", "sesame"})
	defer container.stop()
	eventually(t, func() bool {
		got, _ := os.ReadFile(counted)
		return strings.Count(string(got), "once") >= 2
	})
}

func pod(uid, token string) *core.Pod {
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: proxyPod, UID: types.UID(uid)},
		Spec:       core.PodSpec{Containers: []core.Container{{Env: []core.EnvVar{{Name: tokenVariable, Value: token}}}}},
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proxy")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func verbs(client *fake.Clientset) string {
	var all []string
	for _, action := range client.Actions() {
		what := action.GetVerb() + " " + action.GetResource().Resource
		if action.GetSubresource() != "" {
			what += "/" + action.GetSubresource()
		}
		all = append(all, what)
	}
	return strings.Join(all, ", ")
}

func eventually(t *testing.T, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !so() {
		select {
		case <-ctx.Done():
			t.Fatal("never became so")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
