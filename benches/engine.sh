#!/usr/bin/env bash
# Figures of the agent beside those of dockerd, taken in one run, in alternating rounds, and printed as ratios.
#
#   sudo benches/engine.sh                      (after: cargo build --release --package agent --package runtime --bins)
#
# Needs root, dockerd with containerd and runc (Debian: docker.io), a docker CLI, curl, jq, iproute2, busybox-static.
# Nothing of the machine is touched: each daemon gets a network namespace, directories and a cgroup of its own, and
# only what was started here is ended. Environment:
#   ROUNDS    pairs of `run --rm`, default 15      SERVICE_ROUNDS   pairs of `service create`, default a third of it
#   BIN_DIR   where `agent` and `runtime` are      DOCKERD_FLAGS    further flags of dockerd, e.g. --iptables=false
#   KEEP_RAW  a file that gets every single figure
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")/.." && pwd)
rounds=${ROUNDS:-15}
service_rounds=${SERVICE_ROUNDS:-$(((rounds + 2) / 3))}
replicas=10
bin=${BIN_DIR:-$here/target/$(uname -m)-unknown-linux-gnu/release}
tag=shoalbench$$
work=$(mktemp -d "${TMPDIR:-/var/tmp}/$tag.XXXX")
raw=${KEEP_RAW:-$work/raw}
pids=()
# What dockerd and containerd make outside their directories, whatever they are told.
strays=(/etc/docker/key.json /run/docker/plugins /run/docker /run/containerd/s /run/containerd)

main() {
  require
  remember_strays
  trap clean_up EXIT
  trap 'exit 130' INT TERM
  : >"$raw"
  mkdir "$work/volatile"
  mount -t tmpfs "$tag" "$work/volatile" # where /run would be, for what either daemon keeps there
  start_dockerd
  start_agent
  for side in docker agent; do prepare "$side"; done
  sleep 3
  for side in docker agent; do daemon_memory "$side" idle; done
  for side in docker agent; do container_memory "$side"; done
  measure_times
  for side in docker agent; do daemon_memory "$side" later; done
  report
}

require() {
  local tool missing=()
  [ "$(id -u)" = 0 ] || { echo "benches/engine.sh: has to run as root" >&2; exit 1; }
  for tool in dockerd containerd runc docker curl jq ip nsenter busybox tar; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  for tool in "$bin/agent" "$bin/runtime"; do [ -x "$tool" ] || missing+=("$tool"); done
  [ ${#missing[@]} = 0 ] || { echo "benches/engine.sh: missing: ${missing[*]}" >&2; exit 1; }
}

# --- the two daemons ---------------------------------------------------------------------------------------------

socket() { case $1 in docker) echo "$work/docker.sock" ;; agent) echo "$work/volatile/agent/agent.sock" ;; esac; }

# A namespace with nothing but lo, and forwarding for itself alone.
make_namespace() {
  ip netns add "$1"
  ip -n "$1" link set lo up
  nsenter --net="/run/netns/$1" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

# start NAMESPACE LOG COMMAND… : in the background; its pid is kept. Not `ip netns exec`: that hides /sys/fs/cgroup.
start() {
  local namespace=$1 log=$2
  shift 2
  nsenter --net="/run/netns/$namespace" -- "$@" >"$log" 2>&1 </dev/null &
  started=$!
  pids+=("$started")
}

start_dockerd() {
  make_namespace "$tag-d"
  # As dockerd configures the containerd that it starts itself; started here so that one of the system is left alone.
  printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n' >"$work/containerd.toml"
  echo '{}' >"$work/daemon.json"
  start "$tag-d" "$work/containerd.log" containerd --config "$work/containerd.toml" --root "$work/containerd-root" \
    --state "$work/volatile/containerd" --address "$work/containerd.sock" --log-level warn
  containerd_pid=$started
  until_true 30 test -S "$work/containerd.sock"
  # shellcheck disable=SC2086
  start "$tag-d" "$work/dockerd.log" dockerd --config-file "$work/daemon.json" --data-root "$work/docker-root" \
    --exec-root "$work/volatile/docker" --pidfile "$work/docker.pid" --host "unix://$work/docker.sock" \
    --containerd "$work/containerd.sock" --cgroup-parent "/$tag" --exec-opt native.cgroupdriver=cgroupfs \
    ${DOCKERD_FLAGS:-}
  dockerd_pid=$started
  wait_for_api docker "$work/dockerd.log"
}

start_agent() {
  make_namespace "$tag-a"
  start "$tag-a" "$work/agent.log" "$bin/agent" run --root "$work/root" --run-dir "$work/volatile/agent"
  agent_pid=$started
  wait_for_api agent "$work/agent.log"
}

wait_for_api() {
  until_true 60 api "$1" GET /_ping || { echo "the daemon does not answer:" >&2; tail -20 "$2" >&2; exit 1; }
}

until_true() {
  local seconds=$1 end
  shift
  end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

# api SIDE METHOD PATH [JSON]
api() {
  local answer
  answer=$(curl --silent --show-error --fail-with-body --unix-socket "$(socket "$1")" -X "$2" "http://d$3" \
    ${4:+-H "Content-Type: application/json" --data "$4"} 2>&1) || { echo "$1: $2 $3: $answer" >&2; return 1; }
  printf '%s\n' "$answer"
}

cli() { local side=$1; shift; docker --host "unix://$(socket "$side")" "$@"; }

# The image of busybox alone, and a swarm of one node.
prepare() {
  local rootfs=$work/image
  mkdir -p "$rootfs/bin"
  cp "$(command -v busybox)" "$rootfs/bin/busybox"
  for applet in true sleep sh; do ln -sf busybox "$rootfs/bin/$applet"; done
  tar -C "$rootfs" -c . | cli "$1" import - bench:latest >/dev/null
  cli "$1" run --rm bench:latest /bin/true # warms caches, and stops here if it cannot work
}

make_swarm() {
  api "$1" POST /swarm/init \
    '{"ListenAddr":"0.0.0.0:2377","AdvertiseAddr":"127.0.0.1","ForceNewCluster":false,"Spec":{}}' >/dev/null
}

# --- times -------------------------------------------------------------------------------------------------------

# Each pair is measured close together, and which comes first alternates.
measure_times() {
  local round
  for round in $(seq "$rounds"); do
    pair "$round" run_cli cli
    pair "$round" idle_cli cli-idle
    pair "$round" run_raw raw bridge
    pair "$round" run_raw raw-nonet none
  done
  for side in docker agent; do make_swarm "$side"; done
  for round in $(seq "$service_rounds"); do pair "$round" service service; done
}

# pair ROUND FUNCTION NAME [ARGUMENT…]
pair() {
  local order="docker agent" side value
  [ $(($1 % 2)) = 1 ] || order="agent docker"
  for side in $order; do
    value=$("$2" "$side" "${@:4}") || { echo "round $1: $2 failed with $side" >&2; exit 1; }
    note "$side" "$3" "$value"
  done
}

note() { echo "$1 $2 $3" >>"$raw"; }

# Milliseconds since NAME (a value of EPOCHREALTIME).
since() { local now=$EPOCHREALTIME; echo $(((${now/./} - ${1/./}) / 100)) | awk '{ print $1 / 10 }'; }

run_cli() {
  local from=$EPOCHREALTIME
  cli "$1" run --rm bench:latest /bin/true
  since "$from"
}

# What the CLI itself costs: one that asks for a list with nothing in it.
idle_cli() {
  local from=$EPOCHREALTIME
  cli "$1" ps --quiet >/dev/null
  since "$from"
}

# create, start, wait, delete over one connection; the sum of what curl says each took, so without curl's own start.
run_raw() {
  local body='{"Image":"bench:latest","Cmd":["/bin/true"],"HostConfig":{"NetworkMode":"'$2'"}}'
  local base=http://d/containers common=(--silent --unix-socket "$(socket "$1")" -o /dev/null -w '%{http_code} %{time_total}\n')
  curl "${common[@]}" -H 'Content-Type: application/json' --data "$body" "$base/create?name=bench" \
    --next "${common[@]}" -X POST "$base/bench/start" \
    --next "${common[@]}" -X POST "$base/bench/wait" \
    --next "${common[@]}" -X DELETE "$base/bench" |
    awk '$1 >= 300 { bad = 1 } { sum += $2 } END { if (bad || NR != 4) exit 1; printf "%.2f\n", sum * 1000 }'
}

# From the request to the first answer that shows every replica running. One curl asks 50 times a second at most.
service() {
  local spec from took poller asked side=$1
  spec=$(jq -nc --argjson replicas "$replicas" '{Name: "bench", Mode: {Replicated: {Replicas: $replicas}}, TaskTemplate:
    {ContainerSpec: {Image: "bench:latest", Command: ["/bin/sleep", "3600"], StopGracePeriod: 100000000}}}')
  from=$EPOCHREALTIME
  api "$side" POST /services/create "$spec" >/dev/null
  exec {asked}< <(exec curl --silent --no-buffer --fail-early --unix-socket "$(socket "$side")" --rate 50/s -w '\n' \
    'http://d/tasks?filters=%7B%22service%22%3A%5B%22bench%22%5D%7D&poll=[1-3000]' 2>/dev/null)
  poller=$!
  grep --quiet --max-count=1 --extended-regexp "(\"State\":\"running\".*){$replicas}" <&"$asked" ||
    { echo "the replicas do not run" >&2; return 1; }
  took=$(since "$from")
  kill "$poller"
  exec {asked}<&-
  api "$side" DELETE /services/bench >/dev/null
  until_true 60 no_containers "$side"
  sleep 1
  echo "$took"
}

no_containers() { [ "$(api "$1" GET '/containers/json?all=1' | jq length)" = 0 ]; }

# --- memory ------------------------------------------------------------------------------------------------------

# Sums of Rss, Pss and private memory over processes, in kB.
memory() {
  local pid
  for pid in "$@"; do cat "/proc/$pid/smaps_rollup"; done |
    awk '/^Rss:/ { r += $2 } /^Pss:/ { p += $2 } /^Private_(Clean|Dirty):/ { u += $2 } END { print r, p, u }'
}

daemon_pids() { case $1 in docker) echo "$dockerd_pid $containerd_pid" ;; agent) echo "$agent_pid" ;; esac; }

daemon_memory() {
  local r p u
  # shellcheck disable=SC2046
  read -r r p u < <(memory $(daemon_pids "$1"))
  note "$1" "$2-rss" "$r"
  note "$1" "$2-pss" "$p"
  note "$1" "$2-private" "$u"
}

# Processes of ours whose command line names PATTERN.
shims() {
  local entry
  for entry in /proc/[0-9]*; do
    if tr '\0' ' ' 2>/dev/null <"$entry/cmdline" | grep -qE -- "$1"; then echo "${entry#/proc/}"; fi
  done
}

container_memory() {
  local side=$1 n r p u found before after
  # shellcheck disable=SC2046
  read -r _ _ before < <(memory $(daemon_pids "$side"))
  for n in $(seq "$replicas"); do
    cli "$side" run -d --name "sleep$n" bench:latest /bin/sleep 3600 >/dev/null
  done
  sleep 2
  case $side in
  docker) found=$(shims "containerd-shim.* -address $work/") ;;
  agent) found=$(shims "runtime --root $work/volatile/agent/runtime shim ") ;;
  esac
  [ "$(wc -w <<<"$found")" = "$replicas" ] || { echo "found other than $replicas shims: $found" >&2; exit 1; }
  # shellcheck disable=SC2086
  read -r r p u < <(memory $found)
  note "$side" shim-rss $((r / replicas))
  note "$side" shim-pss $((p / replicas))
  note "$side" shim-private $((u / replicas))
  # shellcheck disable=SC2046
  read -r _ _ after < <(memory $(daemon_pids "$side"))
  note "$side" grown-private $(((after - before) / replicas))
  remove_all "$side"
}

remove_all() {
  local id
  for id in $(api "$1" GET '/containers/json?all=1' | jq -r '.[].Id'); do
    api "$1" DELETE "/containers/$id?force=1" >/dev/null || true
  done
}

# --- the table ---------------------------------------------------------------------------------------------------

report() {
  local model
  model=$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
  echo "$(date -u +%Y-%m-%dT%H:%MZ), $(nproc) cores (${model:-unknown}), Linux $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
  echo "dockerd $(api docker GET /version | jq -r .Version), docker CLI $(docker --version | awk '{ print $3 }' | tr -d ,)," \
    "$rounds alternating pairs ($service_rounds of services): medians; the ratio is the median of the pairs' ratios"
  echo
  echo "| what | dockerd | agent | agent / dockerd |"
  echo "|---|---:|---:|---:|"
  row cli ms "docker CLI: \`run --rm\` of /bin/true"
  row cli-idle ms "docker CLI alone: \`ps\` of nothing"
  row raw ms "API: create, start, wait, delete of /bin/true"
  row raw-nonet ms "the same without network"
  row service ms "service create, $replicas replicas running"
  row idle-rss kB "daemon idle, RSS"
  row idle-pss kB "daemon idle, PSS"
  row idle-private kB "daemon idle, private"
  row later-pss kB "daemon after all rounds, a swarm of one: PSS"
  row shim-rss kB "per container: shim, RSS"
  row shim-pss kB "per container: shim, PSS"
  row shim-private kB "per container: shim, private"
  row grown-private kB "per container: growth of the daemon, private"
}

# row KEY UNIT TITLE
row() {
  awk -v key="$1" -v unit="$2" -v title="$3" '
    function median(values, n,    i, j, t) {
      for (i = 2; i <= n; i++) for (j = i; j > 1 && values[j - 1] > values[j]; j--) {
        t = values[j]; values[j] = values[j - 1]; values[j - 1] = t }
      return n % 2 ? values[(n + 1) / 2] : (values[n / 2] + values[n / 2 + 1]) / 2 }
    $2 == key && $1 == "docker" { d[++nd] = $3 + 0 }
    $2 == key && $1 == "agent" { a[++na] = $3 + 0 }
    END {
      if (!nd || nd != na) { print "| " title " | not measured | | |"; exit }
      for (i = 1; i <= nd; i++) { if (d[i] > 0) r[++nr] = a[i] / d[i] }
      shown = nr ? sprintf("%.3f", median(r, nr)) : "–"
      printf "| %s | %.1f %s | %.1f %s | %s |\n", title, median(d, nd), unit, median(a, na), unit, shown
    }' "$raw"
}

# --- the end -----------------------------------------------------------------------------------------------------

clean_up() {
  set +e
  trap '' INT TERM
  local side pid path name
  for side in docker agent; do
    if api "$side" GET /_ping >/dev/null 2>&1; then
      api "$side" POST '/swarm/leave?force=1' >/dev/null 2>&1
      remove_all "$side" 2>/dev/null
      until_true 20 no_containers "$side"
    fi
  done
  # The daemons in the order opposite to their start, then what they left (matched by this run's own directory).
  for ((n = ${#pids[@]} - 1; n >= 0; n--)); do end_process "${pids[$n]}"; done
  for pid in $(shims "(containerd-shim|runtime) .*$work/"); do kill -KILL "$pid" 2>/dev/null; done
  awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r | while read -r path; do umount -l "$path"; done
  for name in "$tag-d" "$tag-a"; do ip netns del "$name" 2>/dev/null; done
  remove_cgroups "$tag"
  remove_cgroups "shoal-$(printf %s "$work/root" | sha256sum | cut -c1-8)"
  rm -rf "$work"
  for path in "${new_strays[@]}"; do rm -d "$path" 2>/dev/null; done
}

remember_strays() {
  local path
  new_strays=()
  for path in "${strays[@]}"; do [ -e "$path" ] || new_strays+=("$path"); done
}

end_process() {
  kill -TERM "$1" 2>/dev/null || return 0
  until_true 20 ended "$1" || kill -KILL "$1" 2>/dev/null
  wait "$1" 2>/dev/null
}

ended() { [ ! -e "/proc/$1" ] || grep -q '^State:.*Z' "/proc/$1/status"; }

# A cgroup of that name in every hierarchy, its children first.
remove_cgroups() {
  find /sys/fs/cgroup -maxdepth 2 -type d -name "$1" 2>/dev/null | while read -r path; do
    find "$path" -depth -type d -exec rmdir {} + 2>/dev/null
  done
}

main "$@"
