package minions

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// retryAfter is how long a failed act waits. A second is the promise to whoever created the object.
const retryAfter = time.Second

// patience is between two tries to reach an API server that is away. client-go's own grows to a minute, which would
// leave the nodes unregistered long after a restarted master is up again.
func patience() *wait.Backoff {
	return &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5, Cap: 3 * time.Second}
}

// follow calls act with all objects of a list at its start and after every change, until ctx ends. act sees whole
// lists, never single events, so nothing that happened while the API server was away is missed. Of changes that come
// faster than act works, only the last counts. An error of act is logged and act called again.
func follow[T runtime.Object](ctx context.Context, what string, source cache.ListerWatcher, example T, act func(context.Context, []T) error) {
	changes := make(chan []T, 1)
	publish := func(objects []any) {
		typed := make([]T, 0, len(objects))
		for _, object := range objects {
			if t, ok := object.(T); ok {
				typed = append(typed, t)
			}
		}
		// The reflector is the only one that sends: after taking out what nobody read yet there is room.
		select {
		case <-changes:
		default:
		}
		changes <- typed
	}
	reflector := cache.NewReflectorWithOptions(source, example, cache.NewUndeltaStore(publish, cache.MetaNamespaceKeyFunc),
		cache.ReflectorOptions{Name: what, Backoff: patience()})
	go reflector.RunWithContext(ctx)

	var latest []T
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case latest = <-changes:
		case <-retry:
		}
		retry = nil
		if err := act(ctx, latest); err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "Will try again", "what", what, "after", retryAfter)
			retry = time.After(retryAfter)
		}
	}
}
