// The verdicts of kube-scheduler itself: its own default plugins, run as a library over clusters given as JSON lines.
//
// In:  {"objects": [...], "pods": [...]} on each line, with "scores": true for the score plugins' answers too. objects: Nodes, bound Pods, Namespaces, Services, PVCs, PVs, ...
// (any kind of client-go's scheme, also `kubectl get -o json` lists); pods: unbound Pods, each judged alone.
// Out: {"results": [{"pod": "ns/name", "feasible": [...], "nodes": {"n": ["reason", ...]}, "unresolvable": [...],
// "message": "0/3 nodes are available: ..."}]} on each line; message is the FitError, "" where a node is feasible.
// Documented in README.md. Errors in the input end the program with status 1 and a sentence.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler"
	internalcache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/profile"
)

const version = "1.36.3"

type cluster struct {
	Objects []json.RawMessage `json:"objects"`
	Pods    []json.RawMessage `json:"pods"`
	Scores  bool              `json:"scores"`
}

type verdict struct {
	Pod          string              `json:"pod"`
	Feasible     []string            `json:"feasible"`
	Nodes        map[string][]string `json:"nodes"`
	Unresolvable []string            `json:"unresolvable"`
	Message      string              `json:"message"`
	// By plugin and feasible node, weighted; only where the line asks for them.
	Scores map[string]map[string]int64 `json:"scores,omitempty"`
}

func decode(raw json.RawMessage) ([]runtime.Object, error) {
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %.200s", err, raw)
	}
	if list, isList := object.(*v1.List); isList {
		var all []runtime.Object
		for _, item := range list.Items {
			found, err := decode(item.Raw)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
		return all, nil
	}
	if meta.IsListType(object) {
		return meta.ExtractList(object)
	}
	return []runtime.Object{object}, nil
}

func judge(in cluster) ([]verdict, error) {
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.New(nil)))
	defer cancel()
	var objects []runtime.Object
	for _, raw := range in.Objects {
		found, err := decode(raw)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	recorder := profile.NewRecorderFactory(events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()}))
	sched, err := scheduler.New(ctx, client, factory, nil, recorder)
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := sched.WaitForHandlersSync(ctx); err != nil {
		return nil, err
	}
	plugins := sched.Profiles[v1.DefaultSchedulerName]
	snapshot := plugins.SnapshotSharedLister().(*internalcache.Snapshot)
	if err := sched.Cache.UpdateSnapshot(klog.FromContext(ctx), snapshot); err != nil {
		return nil, err
	}
	var out []verdict
	for _, raw := range in.Pods {
		found, err := decode(raw)
		if err != nil {
			return nil, err
		}
		for _, object := range found {
			pod, isPod := object.(*v1.Pod)
			if !isPod {
				return nil, fmt.Errorf("pods must hold Pods: %.200s", raw)
			}
			result, err := one(ctx, sched, plugins, snapshot, pod, in.Scores)
			if err != nil {
				return nil, err
			}
			out = append(out, result)
		}
	}
	return out, nil
}

// one judges a pod: every node by the filters alone, and, where no node is left, the message of the whole attempt.
func one(
	ctx context.Context, sched *scheduler.Scheduler, plugins framework.Framework, snapshot *internalcache.Snapshot, pod *v1.Pod,
	withScores bool,
) (verdict, error) {
	result := verdict{
		Pod: pod.Namespace + "/" + pod.Name, Feasible: []string{}, Nodes: map[string][]string{}, Unresolvable: []string{},
	}
	state := framework.NewCycleState()
	only, status, _ := plugins.RunPreFilterPlugins(ctx, state, pod)
	nodes, err := snapshot.NodeInfos().List()
	if err != nil {
		return result, err
	}
	var left []fwk.NodeInfo
	for _, node := range nodes {
		name := node.Node().Name
		switch {
		case !status.IsSuccess():
			result.Nodes[name] = status.Reasons()
			if status.Code() == fwk.UnschedulableAndUnresolvable {
				result.Unresolvable = append(result.Unresolvable, name)
			}
			continue
		case only != nil && !only.AllNodes() && !only.NodeNames.Has(name):
			result.Nodes[name] = []string{"(excluded before the filters)"}
			result.Unresolvable = append(result.Unresolvable, name)
			continue
		}
		if verdict := plugins.RunFilterPluginsWithNominatedPods(ctx, state, pod, node); verdict.IsSuccess() {
			result.Nodes[name] = []string{}
			result.Feasible = append(result.Feasible, name)
			left = append(left, node)
		} else {
			result.Nodes[name] = verdict.Reasons()
			if verdict.Code() == fwk.UnschedulableAndUnresolvable {
				result.Unresolvable = append(result.Unresolvable, name)
			}
		}
	}
	sort.Strings(result.Feasible)
	sort.Strings(result.Unresolvable)
	if len(result.Feasible) > 0 {
		if withScores {
			result.Scores, err = scores(ctx, plugins, state, pod, left)
		}
		return result, err
	}
	info, err := framework.NewPodInfo(pod)
	if err != nil {
		return result, err
	}
	_, err = sched.SchedulePod(ctx, plugins, framework.NewCycleState(), &framework.QueuedPodInfo{PodInfo: info})
	if err != nil {
		result.Message = err.Error()
	}
	return result, nil
}

// scores are what the score plugins make of the nodes left, normalised and weighted.
func scores(
	ctx context.Context, plugins framework.Framework, state fwk.CycleState, pod *v1.Pod, left []fwk.NodeInfo,
) (map[string]map[string]int64, error) {
	if status := plugins.RunPreScorePlugins(ctx, state, pod, left); !status.IsSuccess() {
		return nil, status.AsError()
	}
	found, status := plugins.RunScorePlugins(ctx, state, pod, left)
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	byPlugin := map[string]map[string]int64{}
	for _, node := range found {
		for _, score := range node.Scores {
			if byPlugin[score.Name] == nil {
				byPlugin[score.Name] = map[string]int64{}
			}
			byPlugin[score.Name][node.Name] = score.Score
		}
	}
	return byPlugin, nil
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--version" {
		fmt.Println("verdict-oracle", version)
		return
	}
	in := json.NewDecoder(bufio.NewReaderSize(os.Stdin, 1<<20))
	out := json.NewEncoder(os.Stdout)
	for {
		var next cluster
		err := in.Decode(&next)
		if errors.Is(err, io.EOF) {
			return
		}
		var results []verdict
		if err == nil {
			results, err = judge(next)
		}
		if err == nil {
			err = out.Encode(map[string]any{"results": results})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "verdict-oracle:", err)
			os.Exit(1)
		}
	}
}
