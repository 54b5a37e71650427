# Counts the events of each network in the shared state: tally/ci, tally/us, ...

# A batch at a time: one change of the state for each network, not for each event.
count() {
  local data net
  local -A counts=()
  for data; do
    bridge_get "$data" properties net && bridge_text "$REPLY" || return
    counts[$REPLY]+=x
  done
  for net in "${!counts[@]}"; do
    bridge_state_update "tally/$net" add 0 || return
  done
}

# add(count) -> the count so far and one for each x
add() {
  bridge_integer "$1" || return
  bridge_return $((REPLY + ${#counts[$net]}))
}

bridge_on quake.new count --batch 200
