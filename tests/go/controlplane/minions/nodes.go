package minions

import (
	"context"
	"errors"
	"fmt"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// kwokAnnotation marks a node as KWOK's to keep Ready; KWOK leaves every other node alone.
const kwokAnnotation = "kwok.x-k8s.io/node"

// registrar registers the nodes, and again whenever one is missing, as a kubelet would when it is restarted.
type registrar struct {
	client kubernetes.Interface
	nodes  int
}

func (r registrar) run(ctx context.Context) {
	source := cache.NewListWatchFromClient(r.client.CoreV1().RESTClient(), "nodes", meta.NamespaceAll, fields.Everything())
	follow(ctx, "nodes", source, &core.Node{}, r.register)
}

func (r registrar) register(ctx context.Context, present []*core.Node) error {
	missing := map[string]bool{}
	for number := range r.nodes {
		missing[fmt.Sprintf("kubernetes-minion-%d", number+1)] = true
	}
	for _, node := range present {
		delete(missing, node.Name)
	}
	var failures []error
	for name := range missing {
		_, err := r.client.CoreV1().Nodes().Create(ctx, node(name), meta.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			failures = append(failures, fmt.Errorf("node %s: %w", name, err))
			continue
		}
		klog.InfoS("Registered", "node", name)
	}
	return errors.Join(failures...)
}

// node is a machine of a common size; what is not said here, KWOK fills in.
func node(name string) *core.Node {
	room := core.ResourceList{
		core.ResourceCPU:    resource.MustParse("4"),
		core.ResourceMemory: resource.MustParse("16Gi"),
		core.ResourcePods:   resource.MustParse("110"),
	}
	return &core.Node{
		ObjectMeta: meta.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{kwokAnnotation: "fake"},
			Labels: map[string]string{
				core.LabelHostname:   name,
				core.LabelOSStable:   "linux",
				core.LabelArchStable: "amd64",
			},
		},
		Status: core.NodeStatus{Capacity: room, Allocatable: room},
	}
}
