package minions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// balancer gives services of type LoadBalancer the addresses that were set aside for them. It moves no traffic: the
// addresses are on whoever serves there.
type balancer struct {
	client    kubernetes.Interface
	addresses map[string]netip.Addr
}

func (b balancer) run(ctx context.Context) {
	source := cache.NewListWatchFromClient(b.client.CoreV1().RESTClient(), "services", namespace, fields.Everything())
	follow(ctx, "services", source, &core.Service{}, b.assign)
}

func (b balancer) assign(ctx context.Context, services []*core.Service) error {
	var failures []error
	for _, service := range services {
		address, ours := b.addresses[service.Name]
		if !ours || service.Spec.Type != core.ServiceTypeLoadBalancer || has(service, address) {
			continue
		}
		patch, err := json.Marshal(map[string]any{
			"status": map[string]any{"loadBalancer": core.LoadBalancerStatus{
				Ingress: []core.LoadBalancerIngress{{IP: address.String()}},
			}},
		})
		if err == nil {
			_, err = b.client.CoreV1().Services(namespace).
				Patch(ctx, service.Name, types.MergePatchType, patch, meta.PatchOptions{}, "status")
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("service %s: %w", service.Name, err))
			continue
		}
		klog.InfoS("Gave an address", "service", service.Name, "address", address)
	}
	return errors.Join(failures...)
}

// has tells whether address is the one and only address of the service.
func has(service *core.Service, address netip.Addr) bool {
	ingress := service.Status.LoadBalancer.Ingress
	return len(ingress) == 1 && ingress[0].IP == address.String()
}
