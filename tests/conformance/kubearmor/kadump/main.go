// Command kadump prints what KubeArmor's daemon makes of policies: the rows of a container's map.
//
// It reads lines of JSON, {"policies": [...], "posture": {"file": "block", ...}}, and answers each with
// {"rows": [[path, source, process, file], ...], "error": ""}; keys are hexadecimal, values numbers. It
// needs the right to make BPF maps; it loads no program. See ../README.md for how to build it.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/kubearmor/KubeArmor/KubeArmor/core"
	"github.com/kubearmor/KubeArmor/KubeArmor/enforcer/bpflsm"
	"github.com/kubearmor/KubeArmor/KubeArmor/feeder"
	"github.com/kubearmor/KubeArmor/KubeArmor/monitor"
	"github.com/kubearmor/KubeArmor/KubeArmor/types"
	ksp "github.com/kubearmor/KubeArmor/pkg/KubeArmorController/api/security.kubearmor.com/v1"
)

const container = "container"

type question struct {
	Policies []ksp.KubeArmorPolicy `json:"policies"`
	Posture  types.DefaultPosture  `json:"posture"`
}

type answer struct {
	Rows  [][]any `json:"rows"`
	Error string  `json:"error"`
}

// hash makes a map that is pinned nowhere.
func hash(spec ebpf.MapSpec) *ebpf.Map {
	made, err := ebpf.NewMap(&spec)
	if err != nil {
		panic(err)
	}
	return made
}

// enforcer is NewBPFEnforcer's without its programs.
func enforcer(logger *feeder.Feeder) *bpflsm.BPFEnforcer {
	inner := &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 400, ValueSize: 4, MaxEntries: 256}
	return &bpflsm.BPFEnforcer{
		Logger:           logger,
		Monitor:          &monitor.SystemMonitor{},
		ContainerMap:     map[string]bpflsm.ContainerKV{},
		ContainerMapLock: new(sync.RWMutex),
		InnerMapSpec:     inner,
		BPFContainerMap: hash(ebpf.MapSpec{
			Type: ebpf.HashOfMaps, KeySize: 8, ValueSize: 4, MaxEntries: 256, InnerMap: inner,
		}),
		BPFContainerThrottleMap: hash(ebpf.MapSpec{
			Type: ebpf.Hash, KeySize: 8, ValueSize: 24, MaxEntries: 256,
		}),
		BPFArgumentsMap: hash(ebpf.MapSpec{
			Type: ebpf.Hash, KeySize: 512, ValueSize: 1, MaxEntries: 10240,
		}),
	}
}

// rows are what lies in the container's map.
func rows(made *ebpf.Map) [][]any {
	found := [][]any{}
	if made == nil {
		return found
	}
	var key bpflsm.InnerKey
	var value [2]uint16
	for entries := made.Iterate(); entries.Next(&key, &value); {
		path, source := hex.EncodeToString(key.Path[:]), hex.EncodeToString(key.Source[:])
		found = append(found, []any{path, source, value[0], value[1]})
	}
	return found
}

func main() {
	out := json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr // KubeArmor's log goes there
	logger := &feeder.Feeder{}
	daemon := core.NewKubeArmorDaemon()
	daemon.Logger = logger
	enforces := enforcer(logger)
	enforces.AddContainerIDToMap(container, 7, 9)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<26)
	for in.Scan() {
		var asked question
		var said answer
		if err := json.Unmarshal(in.Bytes(), &asked); err != nil {
			said.Error = err.Error()
		}
		var policies []types.SecurityPolicy
		for _, policy := range asked.Policies {
			made, err := daemon.CreateSecurityPolicy(core.KubeArmorPolicy, policy)
			if err != nil {
				said.Error = err.Error()
			}
			policies = append(policies, made)
		}
		enforces.UpdateContainerRules(container, nil, asked.Posture)
		enforces.UpdateContainerRules(container, policies, asked.Posture)
		said.Rows = rows(enforces.ContainerMap[container].Map)
		if err := out.Encode(said); err != nil {
			panic(err)
		}
	}
}
