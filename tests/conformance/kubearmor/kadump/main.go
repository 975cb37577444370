// Command kadump prints what KubeArmor's daemon makes of policies: the rows of a container's map.
//
// It reads lines of JSON, {"policies": [...], "posture": {"file": "block", ...}}, and answers each with
// {"rows": [[path, source, process, file], ...], "arguments": [[path, source, argument], ...],
// "apparmor": "...", "error": ""}; keys are hexadecimal, values numbers, and the profile is what
// KubeArmor would load where AppArmor enforces. It needs the right to make BPF maps; it loads no program
// and no profile. See ../README.md for how to build it.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"text/template"

	sprig "github.com/Masterminds/sprig/v3"
	"github.com/cilium/ebpf"
	"github.com/kubearmor/KubeArmor/KubeArmor/core"
	"github.com/kubearmor/KubeArmor/KubeArmor/enforcer"
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
	Rows      [][]any    `json:"rows"`
	Arguments [][]string `json:"arguments"`
	AppArmor  string     `json:"apparmor"`
	Error     string     `json:"error"`
}

// hash makes a map that is pinned nowhere.
func hash(spec ebpf.MapSpec) *ebpf.Map {
	made, err := ebpf.NewMap(&spec)
	if err != nil {
		panic(err)
	}
	return made
}

// withoutPrograms is NewBPFEnforcer's without its programs.
func withoutPrograms(logger *feeder.Feeder) *bpflsm.BPFEnforcer {
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

// arguments are what lies in the map of allowed ones, which is emptied.
func arguments(made *ebpf.Map) [][]string {
	found := [][]string{}
	var key bpflsm.ArgumentsKey
	var value uint8
	var keys []bpflsm.ArgumentsKey
	for entries := made.Iterate(); entries.Next(&key, &value); {
		keys = append(keys, key)
	}
	for _, key := range keys {
		path, source := hex.EncodeToString(key.Path[:]), hex.EncodeToString(key.Source[:])
		found = append(found, []string{path, source, hex.EncodeToString(key.Argument[:])})
		if err := made.Delete(key); err != nil {
			panic(err)
		}
	}
	return found
}

// profile is GenerateAppArmorProfile's text, which that compares with a file and writes.
func profile(policies []types.SecurityPolicy, posture types.DefaultPosture) (string, error) {
	_, body := new(enforcer.AppArmorEnforcer).GenerateProfileBody(policies, posture, false)
	body.Name = "kubearmor-default-container"
	functions := sprig.GenericFuncMap()
	made, err := template.New("apparmor").Funcs(functions).Parse(enforcer.BaseTemplate)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = made.Execute(&text, body)
	return text.String(), err
}

func main() {
	out := json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr // KubeArmor's log goes there
	logger := &feeder.Feeder{}
	daemon := core.NewKubeArmorDaemon()
	daemon.Logger = logger
	enforces := withoutPrograms(logger)
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
		arguments(enforces.BPFArgumentsMap)
		enforces.UpdateContainerRules(container, policies, asked.Posture)
		said.Rows = rows(enforces.ContainerMap[container].Map)
		text, err := profile(policies, asked.Posture)
		if err != nil {
			said.Error = err.Error()
		}
		said.AppArmor = text
		said.Arguments = arguments(enforces.BPFArgumentsMap)
		if err := out.Encode(said); err != nil {
			panic(err)
		}
	}
}
