# The plugin of the conformance suite, in Bash.

# hello(name) -> a greeting
hello() {
  local name greeting
  bridge_text "$1"; name=$REPLY
  bridge_config greeting; bridge_text "$REPLY"; greeting=$REPLY
  bridge_string "$greeting, $name from bash"; bridge_return "$REPLY"
}
bridge_export hello hello

# identity(x) -> x
identity() { bridge_return "$1"; }
bridge_export identity identity

# fail(message) fails with that message
fail() {
  bridge_text "$1"
  bridge_fail "$REPLY"
}
bridge_export fail fail

# print_both(text) writes it to stdout and stderr
print_both() {
  bridge_text "$1"
  printf '%s\n' "$REPLY"
  printf '%s\n' "$REPLY" >&2
}
bridge_export print_both print_both

# plot() shows a PNG of one pixel
plot() { # `display` is bash_kernel's
  base64 -d <<<iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg== | display
}
bridge_export plot plot

# call_host(name, args) -> what the function returns
call_host() {
  bridge_text "$1"; local name=$REPLY
  bridge_split "$2"
  bridge_call "$name" "${REPLY_VALUES[@]}" || return
  bridge_return "$REPLY"
}
bridge_export call_host call_host

# try_call(name, args) -> {kind, message} of the error
try_call() {
  local kind
  if call_host "$@"; then return; fi
  bridge_string "$BRIDGE_ERROR_KIND"; kind=$REPLY
  bridge_string "$BRIDGE_ERROR_MESSAGE"
  bridge_object kind "$kind" message "$REPLY"; bridge_return "$REPLY"
}
bridge_export try_call try_call

# nest(n) -> n, through the host and back
nest() {
  bridge_integer "$1" || return
  if ((REPLY <= 0)); then bridge_return 0; return; fi
  bridge_call test.nest "$REPLY" || return
  bridge_integer "$REPLY" && bridge_return $((REPLY + 0))
}
bridge_export nest nest

# increment(key, times) -> the last value
increment() {
  local key times value=null
  bridge_text "$1"; key=$REPLY
  bridge_integer "$2" && times=$REPLY || return
  for ((; times > 0; times--)); do bridge_state_update "$key" plus_one 0 || return; value=$REPLY; done
  bridge_return "$value"
}
plus_one() { bridge_integer "$1" && bridge_return $((REPLY + 1)); }
bridge_export increment increment

# state_roundtrip(key, value) -> value, from the store
state_roundtrip() {
  local key value
  bridge_text "$1"; key=$REPLY
  bridge_state_set "$key" "$2" && bridge_state_get "$key" || return
  value=$REPLY
  bridge_state_delete "$key" || return
  bridge_return "$value"
}
bridge_export state_roundtrip state_roundtrip

# emit_one(topic, data)
emit_one() { bridge_text "$1"; bridge_emit "$REPLY" "$2"; }
bridge_export emit_one emit_one

# log_one(level, message)
log_one() {
  local level
  bridge_text "$1"; level=$REPLY
  bridge_text "$2"; "bridge_log_$level" "$REPLY"
}
bridge_export log_one log_one

# busy(seconds) computes for that long
busy() {
  local microseconds end
  LC_ALL=C printf -v microseconds '%.0f' "${1}e6"
  end=$((${EPOCHREALTIME//[!0-9]/} + microseconds))
  while ((${EPOCHREALTIME//[!0-9]/} < end)); do :; done
}
bridge_export busy busy

# sleep(seconds)
sleep_for() { sleep "$1"; }
bridge_export sleep sleep_for

# keyboard() -> a line from the keyboard
keyboard() {
  local line
  read -r -p 'name? ' line || return
  bridge_string "$line"; bridge_return "$REPLY"
}
bridge_export keyboard keyboard

# exit_now() ends the interpreter
exit_now() { kill -9 "$BASHPID"; }
bridge_export exit_now exit_now

echo_event() {
  bridge_string "$BRIDGE_TOPIC"
  bridge_object topic "$REPLY" data "$1" attempt "$BRIDGE_ATTEMPT"
  bridge_return "$REPLY"
}
bridge_on conf.echo echo_event

batch() {
  local data results=()
  for data; do
    bridge_get "$data" n && bridge_integer "$REPLY" || return
    results+=($((REPLY * 2)))
  done
  bridge_return "${results[@]}"
}
bridge_on conf.batch batch --batch 10

fail_event() {
  echo 'conf.fail always fails' >&2
  return 3
}
bridge_on conf.fail fail_event

add_bash() {
  local keys values i members=() drop=false path='[]'
  bridge_get "$1" drop && drop=$REPLY
  if [[ $drop == true ]]; then bridge_drop; return; fi
  bridge_get "$1" path && path=$REPLY
  bridge_split "$path"; bridge_array "${REPLY_VALUES[@]}" '"bash"'; path=$REPLY
  bridge_split "$1"; keys=("${REPLY_KEYS[@]}") values=("${REPLY_VALUES[@]}")
  for ((i = 0; i < ${#keys[@]}; i++)); do
    [[ ${keys[i]} == path ]] || members+=("${keys[i]}" "${values[i]}")
  done
  bridge_object "${members[@]}" path "$path"; bridge_return "$REPLY"
}
bridge_filter conf.filter add_bash --priority 10

bridge_on_shutdown say_goodbye
say_goodbye() { bridge_state_set shutdown/bash true; }
