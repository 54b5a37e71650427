# kernelbridge shim for Bash 5 under bash_kernel: docs/protocol.md over the `pipe` carrier.
# JSON stays text: a handler gets JSON and gives JSON; bridge_get, bridge_split, bridge_text and bridge_string look inside.
# Authors use `bridge_*`, `BRIDGE_*` and `REPLY*`, where results come; `_bridge_*` is the shim's own. Bash scopes
# dynamically, so a function that can have author's code above it has no locals but these.

# A turn is called from a sourced file, because at the prompt Bash counts lines from the head of each function.
if [[ ${1-} == turn ]]; then _bridge_turn; return 0; fi
trap : PIPE # not '': the author's children keep the default, and a host that went away does not end Bash
trap '' INT # between turns: bash_kernel loses count of prompts when a late SIGINT makes Bash write one more
unset HISTFILE # bash_kernel's Bash is interactive; the turn's constant has no place in the user's history
_bridge_folder=$KERNELBRIDGE_DIR _bridge_open= _bridge_errexit= _bridge_last= BRIDGE_CONFIG={} BRIDGE_ERROR=
_bridge_on_int='_bridge_interrupted || return $_bridge_unwinding'
declare -gi _bridge_id=0 _bridge_served=0 _bridge_depth=0 _bridge_armed=0
declare -gA _bridge_exports=() _bridge_docs=()

# All descriptors are redirections of this function: Bash undoes them however the turn ends. 205 is the handlers' stdin.
_bridge_turn() { # no job control: with it a command of the author's that dies of SIGINT takes the whole turn along
  set +m -E; trap '_bridge_failed $? || return $_bridge_unwinding' ERR; trap "$_bridge_on_int" INT
  trap _bridge_child CHLD
  _bridge_open=1 _bridge_depth=0 _bridge_armed=0; _bridge_send '{"jsonrpc":"2.0","method":"ready"}'; _bridge_wait 0
  trap - ERR CHLD; trap '' INT; set -m +E
} </dev/null 201>"$_bridge_folder/to-host" 202<"$_bridge_folder/to-plugin" 203>&1 204>>"$_bridge_folder/stderr" 205</dev/null

#### Messages

_bridge_send() { # BODY; only a large one can block, and a signal would cut it
  local LC_ALL=C; ((${#1} < 32768)) || trap '' INT
  printf '%d\n%s' ${#1} "$1" >&201; ((${#1} < 32768)) || trap "$_bridge_on_int" INT
}
# A message, matched from the left -> _bridge_method (or `result`, `error`), _bridge_number, _bridge_body: the params, result
# or error, but the last of the params, the only large one, in _bridge_last. No string can hold its `,"name":` unescaped.
_bridge_next() {
  local LC_ALL=C IFS= head k cut=1 last=
  builtin read -r -u 202 k && builtin read -r -N "$k" -u 202 _bridge_body && ((${#_bridge_body} == k)) || return
  [[ ${_bridge_body: -1} != $'\n' ]] || cut=2
  head=${_bridge_body:0:128} _bridge_method= _bridge_number=0 k=17
  [[ $head != '{"jsonrpc":"2.0","id":'* ]] || { head=${head:22} _bridge_number=${head%%,*} k=$((23 + ${#_bridge_number})); }
  head=${_bridge_body:k:128}
  case $head in
    '"method":"'*) head=${head:10} _bridge_method=${head%%\"*} k=$((k + ${#_bridge_method} + 21)) ;;
    '"result":'*) _bridge_method=result k=$((k + 9)) ;; '"error":'*) _bridge_method=error k=$((k + 8)) ;;
  esac
  if ((${#_bridge_body} > k + cut)); then _bridge_body=${_bridge_body:k:-cut}; else _bridge_body=; fi
  case $_bridge_method in
    event | filter) last=',"data":' ;; call) last=',"args":' ;; events) last=',"events":' ;;
    initialize) last=',"config":' ;; load) last=',"cells":' ;; *) return 0 ;;
  esac
  head=${_bridge_body%%"$last"*} _bridge_last=${_bridge_body:${#head}+${#last}:-1} _bridge_body=$head\}
}
_bridge_wait() { # ID: serve until its response is there or, with 0, until `end`; stale messages are dropped
  while [[ $_bridge_open ]] && _bridge_next; do case $_bridge_method in
    end) _bridge_open= ;;
    result) (($1 != _bridge_number)) || { REPLY=$_bridge_body _bridge_body= BRIDGE_ERROR=; return 0; } ;;
    error) (($1 != _bridge_number)) || { _bridge_remote "$_bridge_body"; return; } ;;
    *) ((_bridge_number <= _bridge_served)) || { _bridge_served=$_bridge_number; _bridge_serve; } ;;
  esac; done
  _bridge_open=; (($1 == 0)) || _bridge_fault -32003 Cancelled 'the turn is over'
}
_bridge_request() { # METHOD PARAMS -> REPLY; or status 70 and BRIDGE_ERROR
  [[ $_bridge_open ]] || { _bridge_fault -32003 Cancelled 'no turn is open'; return; }
  local _bridge_mine=${EPOCHREALTIME//[!0-9]/} # the clock grows in a subshell too, where a counter would be lost
  ((_bridge_mine > _bridge_id)) || _bridge_mine=$((_bridge_id + 1))
  _bridge_id=$_bridge_mine; _bridge_relay
  _bridge_send "{\"jsonrpc\":\"2.0\",\"id\":$_bridge_mine,\"method\":\"$1\",\"params\":$2}"; _bridge_wait "$_bridge_mine"
}
_bridge_notify() { # METHOD FIELDS
  [[ ! $_bridge_open ]] || _bridge_send "{\"jsonrpc\":\"2.0\",\"method\":\"$1\",\"params\":{$2}}"
}
_bridge_serve() {
  local _bridge_request=$_bridge_number _bridge_params=$_bridge_body _bridge_value=$_bridge_last _bridge_outcome=error REPLY=null
  local _bridge_found= _bridge_result=() _bridge_trace=() _bridge_said= _bridge_raised= _bridge_invalid= _bridge_cancelled=
  local BRIDGE_ID= BRIDGE_TOPIC= BRIDGE_TIME= BRIDGE_ATTEMPT= BRIDGE_KEY= BRIDGE_EVENTS=() REPLY_KEYS=() REPLY_VALUES=()
  local _bridge_dropped= _bridge_origin=() BRIDGE_ERROR= BRIDGE_ERROR_KIND= BRIDGE_ERROR_MESSAGE=; _bridge_last=
  case $_bridge_method in # from here to the author's code nothing runs under `||` or `if`, where Bash has no ERR trap
    initialize | load | event | events | filter | call | shutdown) "_bridge_on_$_bridge_method" ;;
    *) _bridge_error -32601 NotFound "no method \`$_bridge_method\`" ;;
  esac
  (($? != 0)) || _bridge_outcome=result
  _bridge_send "{\"jsonrpc\":\"2.0\",\"id\":$_bridge_request,\"$_bridge_outcome\":$REPLY}"
}

#### One function for each request: _bridge_params, _bridge_value -> REPLY, the result; or status 1 and the error object

_bridge_on_initialize() {
  BRIDGE_CONFIG=$_bridge_value
  bridge_get "$_bridge_params" folder
  if [[ $REPLY != null ]]; then bridge_text "$REPLY"; cd -- "$REPLY" || { _bridge_error -32602 Invalid 'no such folder'; return 1; }; fi
  REPLY="{\"bridge\":\"1\",\"language\":\"bash\",\"interpreter\":\"bash $BASH_VERSION\",\"features\":[]}"
}
_bridge_on_load() {
  local _bridge_path= _bridge_cells _bridge_name _bridge_file
  _bridge_functions=() _bridge_handlers=() _bridge_finals=() _bridge_exports=() _bridge_docs=() _bridge_errexit=
  bridge_get "$_bridge_params" path; bridge_text "${REPLY/#null/\"\"}"; _bridge_path=$REPLY
  bridge_split "$_bridge_value"; _bridge_cells=("${REPLY_VALUES[@]}")
  for _bridge_name in "${_bridge_cells[@]}"; do
    _bridge_cell "$_bridge_name"
    "$BASH" -n "$_bridge_file" 2>&204 || { # a syntax error: nothing of the cell has run
      mapfile -t _bridge_trace <"$_bridge_folder/stderr"; _bridge_trace=("${_bridge_trace[@]//"$_bridge_file"/"$_bridge_name"}")
      _bridge_relay; _bridge_raised=${_bridge_trace[0]}; _bridge_raise 2; return; }
    _bridge_run source "$_bridge_file"; _bridge_answer $? || return
  done
  for _bridge_name in "${_bridge_functions[@]}" "${_bridge_exports[@]}" "${_bridge_finals[@]}"; do
    type -t -- "$_bridge_name" >/dev/null || { _bridge_raised="no function \`$_bridge_name\`"; _bridge_raise 127; return; }
  done
  for _bridge_name in "${!_bridge_exports[@]}"; do
    bridge_string "${_bridge_docs[${_bridge_exports[$_bridge_name]}]-}"
    _bridge_register "${_bridge_exports[$_bridge_name]}" export name "$_bridge_name" doc "$REPLY"
  done
  bridge_array "${_bridge_handlers[@]}"; REPLY="{\"handlers\":$REPLY,\"async\":false}"
}
_bridge_cell() { # CELL -> _bridge_name; _bridge_file: the entry file, which BASH_SOURCE then names, or a copy; _bridge_docs
  local source line doc= disk= IFS=
  bridge_get "$1" source; bridge_text "$REPLY"; source=$REPLY
  bridge_get "$1" name; bridge_text "$REPLY"; _bridge_name=$REPLY _bridge_file=$_bridge_path
  [[ ! -r $_bridge_path ]] || builtin read -r -d '' disk <"$_bridge_path"
  [[ $disk && $disk == "$source" ]] ||
    { _bridge_file=$_bridge_folder/${_bridge_name//\//_}; printf %s "$source" >|"$_bridge_file"; }
  while builtin read -r line; do # the comment above a function is its documentation
    if [[ $line == '#'* ]]; then line=${line#'#'} doc+=${doc:+$'\n'}${line# }; continue; fi
    [[ $line =~ ^(function[[:space:]]+)?([^[:space:]\(]+)[[:space:]]*(\(\)|\{) ]] && _bridge_docs[${BASH_REMATCH[2]}]=$doc; doc=
  done <<<"$source"
}
_bridge_register() { # FUNCTION KIND FIELD TEXT FIELD JSON
  local id=$((${#_bridge_handlers[@]} + 1)) text name=
  _bridge_functions[id]=$1; bridge_string "$4"; text=$REPLY
  [[ $2 == export ]] || { bridge_string "$1"; name=",\"name\":$REPLY"; }
  _bridge_handlers+=("{\"id\":$id,\"kind\":\"$2\",\"$3\":$text$name,\"$5\":$6}")
}
_bridge_find() { # the handler's number, first in the params -> _bridge_found; an event's fields -> BRIDGE_*
  local IFS=\" - field
  field=${_bridge_params:11} _bridge_found=${_bridge_functions[${field%%[,\}]*}]-}
  [[ $_bridge_found ]] || { _bridge_error -32601 NotFound 'no such handler'; return; }
  if [[ $_bridge_method == events ]]; then return 0
  elif [[ $_bridge_params == *\\* ]]; then for field in id topic time attempt key; do
    bridge_get "$_bridge_params" $field; bridge_text "${REPLY/#null/\"\"}"; printf -v "BRIDGE_${field^^}" %s "$REPLY"
  done; return; fi
  set -f; field=($_bridge_params) # {"handler":1,"id":"..","topic":"..","time":"..","attempt":1,"key":null,"chain":[".."]}
  BRIDGE_ID=${field[5]} BRIDGE_TOPIC=${field[9]} BRIDGE_TIME=${field[13]} BRIDGE_ATTEMPT=${field[16]//[:,]/}
  [[ ${field[18]} != : ]] || BRIDGE_KEY=${field[19]}
}
_bridge_on_event() { _bridge_find || return; _bridge_run "$_bridge_found" "$_bridge_value"; _bridge_answer $?; }
_bridge_on_filter() { # the answer is the event as the filter left it
  _bridge_on_event; (($? == 0)) || return
  [[ ! $_bridge_dropped ]] || { REPLY=null; return; }
  bridge_string "$BRIDGE_KEY"; [[ $BRIDGE_KEY ]] || REPLY=null
  _bridge_value=$REPLY,\"data\":${_bridge_result[0]-$_bridge_value}
  bridge_string "$BRIDGE_TOPIC"; REPLY="{\"topic\":$REPLY,\"key\":$_bridge_value}"
}
_bridge_on_events() { # the function gets the data of each event as an argument and gives bridge_return as many results
  local _bridge_one _bridge_all=(); _bridge_find || return
  bridge_split "$_bridge_value"; BRIDGE_EVENTS=("${REPLY_VALUES[@]}")
  for _bridge_one in "${BRIDGE_EVENTS[@]}"; do
    REPLY=${_bridge_one%%',"data":'*} _bridge_all+=("${_bridge_one:${#REPLY}+8:-1}")
  done
  _bridge_run "$_bridge_found" "${_bridge_all[@]}"; _bridge_answer $? || return
  ((${#_bridge_result[@]} == ${#_bridge_all[@]})) || _bridge_result=("${_bridge_all[@]/*/null}")
  _bridge_result=("${_bridge_result[@]/#/'{"result":'}"); bridge_array "${_bridge_result[@]/%/'}'}"; REPLY="{\"outcomes\":$REPLY}"
}
_bridge_on_call() {
  bridge_split "$_bridge_value"
  REPLY=${_bridge_params:9}; bridge_text "\"${REPLY%%'","chain":'*}\""; _bridge_found=${_bridge_exports[$REPLY]-}
  [[ $_bridge_found ]] || { _bridge_error -32601 NotFound "no export \`$REPLY\`"; return; }
  _bridge_run "$_bridge_found" "${REPLY_VALUES[@]}"; _bridge_answer $?
}
_bridge_on_shutdown() {
  local _bridge_one _bridge_code=0
  for _bridge_one in "${_bridge_finals[@]}"; do _bridge_run "$_bridge_one"; (($? == 0)) || _bridge_code=1; done
  _bridge_result=(); _bridge_answer $_bridge_code
}

#### Running author's code

# eval: what would drop Bash to its prompt (division by zero, ${x:?}, set -u) comes back here. A nested handler runs as a
# callback of mapfile instead: the author's `bridge_call ... || return` under it would switch its ERR trap off.
_bridge_run() { # FUNCTION ARGUMENT...
  local _bridge_function=$1 _bridge_unwinding= _bridge_status=1
  local _bridge_eval='"$_bridge_function" "$@" <&205 >&203 2>&204; _bridge_status=$?; :'
  [[ $1 != source ]] || _bridge_eval='source "$1" <&205 >&203 2>&204 && _bridge_status=0 || _bridge_status=$?' # no `set -e` yet
  shift; _bridge_depth+=1
  if ((_bridge_depth == 1)); then eval "$_bridge_eval"
  else mapfile -n 1 -c 1 -C "$_bridge_eval" _bridge_line <"$_bridge_folder/shim.sh"; fi
  [[ $- != *e* ]] || { set +e; _bridge_errexit=1; } # it would end the whole shell; _bridge_failed does what it is for
  _bridge_depth+=-1; [[ ! $_bridge_unwinding ]] || { _bridge_armed+=-1; ((_bridge_armed)) || { trap - DEBUG; trap _bridge_child CHLD; set +T; }; }
  _bridge_relay; return $_bridge_status
}
_bridge_relay() { # stderr of handlers goes to a file, for the message of a failure, and from there to the kernel
  [[ -s $_bridge_folder/stderr ]] || return 0
  IFS= builtin read -r -d '' _bridge_said <"$_bridge_folder/stderr"; : >|"$_bridge_folder/stderr"; printf %s "$_bridge_said" >&203
}
_bridge_stop() { # STATUS: leave all of the author's functions; DEBUG makes each of them return before its next command
  [[ ! $_bridge_unwinding ]] || return 0
  _bridge_unwinding=$1; _bridge_armed+=1; set -T
  trap ' ' CHLD # a `return` inside it would end all CHLD traps for good; with `trap -` and one pending Bash 5.2 crashes
  trap '[[ ! $_bridge_unwinding || ${FUNCNAME-} == @(_|)bridge_* ]] || return $_bridge_unwinding' DEBUG
}
_bridge_interrupted() { # the shim's own work is not torn, the author's code stops after it
  ((_bridge_depth)) || return 0
  _bridge_cancelled=1; _bridge_stop 130; [[ ${FUNCNAME[1]-} != read ]] # which would go on waiting
}
_bridge_child() { # the CHLD trap: Bash drops a SIGINT when the command it waits for outlives it
  [[ ! -e $_bridge_folder/cancel ]] || _bridge_interrupted
}
_bridge_failed() { # STATUS; the ERR trap: remember where; of a failure that is handed up, the deepest place
  ((_bridge_depth)) && [[ ${FUNCNAME[1]-} != @(_|)bridge_* ]] || return 0
  local i deep=${#FUNCNAME[@]}
  if [[ ${_bridge_origin-} != "$1" ]] || ((_bridge_origin[1] <= deep)); then
    _bridge_trace=()
    for ((i = 1; i < deep; i++)); do
      [[ ${FUNCNAME[i]} != _bridge_run ]] || break
      [[ ${FUNCNAME[i]} == @(_|)bridge_* ]] ||
        _bridge_trace=("${BASH_SOURCE[i]##*/}:${BASH_LINENO[i-1]}: in ${FUNCNAME[i]}" "${_bridge_trace[@]}")
    done
  fi
  _bridge_origin=("$1" $deep)
  [[ ! $_bridge_errexit ]] || { _bridge_stop "$1"; return 1; }
}
_bridge_answer() { # STATUS of the author's function -> REPLY, its result; or status 1 and the error object
  if [[ $_bridge_cancelled ]]; then _bridge_error -32003 Cancelled interrupted
  elif [[ $_bridge_invalid ]]; then _bridge_error -32602 Invalid "$_bridge_invalid"
  elif (($1)); then _bridge_raise "$1"; else REPLY=${_bridge_result[0]-null}; fi
}
_bridge_raise() { # STATUS
  local name="exit status $1" value=${_bridge_said%$'\n'} more= line
  value=${_bridge_raised:-${value##*$'\n'}}
  if [[ $1 == 70 && $BRIDGE_ERROR ]]; then value=${_bridge_raised:-$BRIDGE_ERROR_MESSAGE} more=",\"cause\":$BRIDGE_ERROR"; fi
  if [[ ! ${_bridge_trace-} ]] && line=$(shopt -s extdebug; declare -F -- "$_bridge_found"); then # it ended with `return N`
    line=${line#* }; _bridge_trace=("${line##*/}:${line%% *}: in $_bridge_found")
  fi
  bridge_strings "${_bridge_trace[@]}"; more=",\"traceback\":$REPLY$more"
  bridge_string "$value"; _bridge_error -32000 Raised "$name${value:+: $value}" ",\"ename\":\"$name\",\"evalue\":$REPLY$more"
}
_bridge_error() { # CODE KIND MESSAGE [MORE] -> REPLY, an error object with MORE in its data; status 1
  bridge_string "$3"; REPLY="{\"code\":$1,\"message\":$REPLY,\"data\":{\"kind\":\"$2\"${4-}}}"; return 1
}
_bridge_remote() { # ERROR -> the author's variables; status 70
  BRIDGE_ERROR=$1; bridge_get "$1" message && bridge_text "$REPLY" && BRIDGE_ERROR_MESSAGE=$REPLY
  bridge_get "$1" data kind && bridge_text "$REPLY" && BRIDGE_ERROR_KIND=$REPLY; return 70
}
_bridge_fault() { _bridge_error "$@"; _bridge_remote "$REPLY"; } # CODE KIND MESSAGE, of the shim's own

#### What authors call; a parameter called JSON takes JSON, others take plain text

bridge_on() { _bridge_register "$2" on topic "$1" batch "${4:-0}"; } # TOPIC FUNCTION [--batch N]
bridge_filter() { _bridge_register "$2" filter topic "$1" priority "${4:-0}"; } # TOPIC FUNCTION [--priority N]
bridge_export() { _bridge_exports[$1]=$2; } # NAME FUNCTION
bridge_on_shutdown() { _bridge_finals+=("$1"); } # FUNCTION
bridge_config() { bridge_get "$BRIDGE_CONFIG" "$@"; } # KEY... -> REPLY
bridge_return() { # JSON, the result; in a batch one for each event
  _bridge_json "$@" && _bridge_result=("$@") || { _bridge_invalid=$BRIDGE_ERROR_MESSAGE; return 70; }
}
bridge_drop() { _bridge_dropped=1; } # in a filter: the event ends here
bridge_fail() { _bridge_raised=$1; printf '%s\n' "$1" >&2; return "${2:-1}"; } # MESSAGE [STATUS]
bridge_call() { # NAME JSON... -> REPLY, JSON; or status 70 and BRIDGE_ERROR (JSON), BRIDGE_ERROR_KIND, BRIDGE_ERROR_MESSAGE
  _bridge_json "${@:2}" || return
  bridge_string "$1"; local _bridge_text="{\"name\":$REPLY,\"args\":"
  bridge_array "${@:2}"; _bridge_request call "$_bridge_text$REPLY}"
}
bridge_emit() { # TOPIC JSON [KEY]
  _bridge_json "$2" || return
  bridge_string "$1"; local _bridge_text="{\"topic\":$REPLY,\"data\":$2"
  bridge_string "${3-}"; _bridge_request emit "$_bridge_text${3:+,\"key\":$REPLY}}"
}
bridge_state_get() { bridge_string "$1"; bridge_call state.get "$REPLY" && REPLY=${REPLY/#null/"${2-null}"}; } # KEY [JSON]
bridge_state_set() { bridge_string "$1"; bridge_call state.set "$REPLY" "$2"; } # KEY JSON
bridge_state_delete() { bridge_string "$1"; bridge_call state.delete "$REPLY"; } # KEY -> REPLY, true or false
bridge_state_list() { bridge_string "${1-}"; bridge_call state.list "$REPLY"; } # [PREFIX] -> REPLY, an array
bridge_state_update() { # KEY FUNCTION [JSON] -> REPLY; FUNCTION gets the value, or JSON if none, and gives bridge_return the new
  local _bridge_key _bridge_version _bridge_swapped= _bridge_result
  bridge_string "$1"; _bridge_key=$REPLY
  while [[ $_bridge_swapped != true ]]; do
    bridge_call state.read "$_bridge_key" || return
    _bridge_swapped=$REPLY _bridge_result=(); bridge_get "$_bridge_swapped" version; _bridge_version=$REPLY
    bridge_get "$_bridge_swapped" value; "$2" "${REPLY/#null/"${3-null}"}" || return
    bridge_call state.swap "$_bridge_key" "$_bridge_version" "${_bridge_result[0]-null}" || return
    bridge_get "$REPLY" swapped; _bridge_swapped=$REPLY
  done
  REPLY=${_bridge_result[0]-null}
}
for _bridge_line in debug info warn error; do # bridge_log_debug and so on: MESSAGE [JSON]
  eval "bridge_log_$_bridge_line() { _bridge_log $_bridge_line \"\$@\"; }"
done
_bridge_log() { # LEVEL MESSAGE [JSON]
  _bridge_json "${@:3}" || return
  bridge_string "$2"; _bridge_notify log "\"level\":\"$1\",\"message\":$REPLY${3:+,\"fields\":$3}"
}
bridge_progress() { # DONE [TOTAL] [MESSAGE]
  bridge_string "${3-}"; _bridge_notify progress "\"done\":$1${2:+,\"total\":$2}${3:+,\"message\":$REPLY}"
}
read() { # the keyboard is the host's: without input of its own `read` asks there
  local OPTIND=1 OPTARG _bridge_option _bridge_prompt=
  [[ $_bridge_open && /dev/stdin -ef /dev/null ]] || { builtin read "$@"; return; }
  while getopts :ersa:d:i:n:N:p:t:u: _bridge_option; do
    case $_bridge_option in p) _bridge_prompt=$OPTARG ;; u) builtin read "$@"; return ;; esac
  done
  bridge_string "$_bridge_prompt"
  bridge_call host.input "$REPLY" || { printf 'read: %s\n' "$BRIDGE_ERROR_MESSAGE" >&2; return 1; }
  bridge_text "$REPLY"; builtin read "$@" <<<"$REPLY"
}
exit() { # ends the handler, not the kernel
  local _bridge_code=${1:-$?}
  ((_bridge_depth && BASH_SUBSHELL == 0)) || builtin exit "$_bridge_code"
  _bridge_stop "$_bridge_code"; return "$_bridge_code"
}

#### JSON

bridge_array() { local IFS=,; REPLY="[$*]"; } # JSON... -> REPLY
bridge_strings() { # TEXT... -> REPLY, an array of them
  local all=() one
  for one; do bridge_string "$one"; all+=("$REPLY"); done
  bridge_array "${all[@]}"
}
bridge_object() { # KEY JSON KEY JSON... -> REPLY
  local members=()
  while (($#)); do bridge_string "$1"; members+=("$REPLY:$2"); shift 2; done
  bridge_array "${members[@]}"; REPLY={${REPLY:1:-1}\}
}
bridge_integer() { [[ $1 =~ ^-?[0-9]{1,18}$ ]] && REPLY=$1; } # JSON -> REPLY; for $((...)), which would run code in other text
_bridge_json() { # JSON...: a quick look for text that was never made JSON
  local value
  for value; do
    [[ $value == @(null|true|false|\"*\"|\{*\}|\[*\]) || $value =~ ^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$ ]] ||
      { _bridge_fault -32602 Invalid "not JSON: ${value:0:80}"; return; }
  done
}
bridge_string() { # TEXT -> REPLY, a JSON string
  if [[ $1 != *[\"\\[:cntrl:]]* ]]; then REPLY=\"$1\"; return; fi
  local LC_ALL=C IFS= i part code char done=()
  for ((i = 0; i < ${#1}; i += 65536)); do # in parts, as each replacement reads on to the end
    part=${1:i:65536} part=${part//\\/'\\'} part=${part//\"/'\"'} part=${part//$'\n'/'\n'} part=${part//$'\t'/'\t'}
    [[ $part != *[[:cntrl:]]* ]] || for code in {1..31}; do
      printf -v code %02x "$code"; printf -v char "\\x$code"; part=${part//"$char"/"\\u00$code"}
    done
    done+=("$part")
  done
  REPLY="\"${done[*]}\""
}
bridge_text() { # JSON -> REPLY: the text of a string, other values as they are
  REPLY=$1; [[ $1 == \"*\" ]] || return 0
  REPLY=${1:1:-1}; [[ $REPLY == *\\* ]] || return 0
  local LC_ALL=C IFS=\\ - parts part i done code
  set -f; parts=($REPLY) done=("${parts[0]}")
  for ((i = 1; i < ${#parts[@]}; i++)); do
    part=${parts[i]}
    case $part in
      '') part=\\${parts[++i]-} ;; # two backslashes
      [bfnrt]*) printf -v code "\\${part:0:1}"; part=$code${part:1} ;;
      u*)
        code=$((16#${part:1:4})) part=${part:5}
        if [[ ! $part && ${parts[i+1]-} == u[dD][c-fC-F]* ]] && ((code >> 10 == 54)); then
          part=${parts[++i]} code=$((65536 + ((code & 1023) << 10 | 16#${part:1:4} & 1023))) part=${part:5}
        fi
        ((code >> 11 != 27)) || code=65533 # half a surrogate pair
        printf -v code '\\U%08x' $code; LC_ALL=C.UTF-8 printf -v code "$code"; part=$code$part ;; # U+0000 vanishes
    esac
    done+=("$part")
  done
  IFS=; REPLY="${done[*]}"
}
bridge_get() { # JSON KEY-OR-INDEX... -> REPLY, the value found that deep, as JSON; status 1 if there is none
  local value=$1
  while (($# > 1)); do bridge_split "$value" "${@:2:2}" || return; shift; done
  REPLY=$value
}
# Cut at its brackets JSON shows its depth: each `text` ends at one, and `inside` tells if it begins inside a string. Where
# names are written plainly `"key":` can be nothing else, and what is before it need not be read. The x keeps empty fields.
bridge_split() { # JSON -> REPLY_VALUES, and REPLY_KEYS (text) of an object; status 1 if it is neither that nor an array
  local LC_ALL=C IFS - json=$1 want=("${@:2}") plain= opens open closes text pieces piece at next left
  local inside=0 depth=0 from= colon= index=0
  if [[ ! ${want+x} ]]; then
    local value=${1:1}; REPLY_KEYS=() REPLY_VALUES=()
    [[ $json != \[*\] || $value == *[[{,]* ]] || { [[ $value != *[![:space:]]?* ]] || REPLY_VALUES=("${value%?}"); return 0; }
  elif [[ $json == \{* && $json != *\\* && $json != *\"[[:space:]]* && $want != *[][{}]* ]]; then plain=\"$want\":; fi
  [[ $json == [\[\{[:space:]]* ]] || return
  set -f; IFS='[{'; opens=($json) next=${#opens[0]}
  for open in "${opens[@]:1}"; do
    ((inside || ++depth))
    IFS=']}'; closes=(${open}x) left=${#closes[@]}
    for text in "${closes[@]}"; do
      at=$((next + 1))
      ((--left)) || text=${text%x}
      ((depth > 1)) || ! _bridge_items || return 0
      next=$((at + ${#text}))
      if [[ $text == *\"* ]]; then
        IFS=\"; pieces=(${text}x)
        if [[ $text != *\\* ]]; then ((inside ^= ${#pieces[@]} - 1 & 1))
        else for piece in "${pieces[@]::${#pieces[@]}-1}"; do _bridge_escaped "$piece" || ((inside ^= 1)); done; fi
      fi
      ((left && !inside && !--depth)) && { _bridge_item "$next" || [[ ! ${want+x} ]]; return; }
    done
  done
  return 1
}
_bridge_escaped() { [[ $1 == *\\ ]] && { local slashes=${1##*[!\\]}; ((${#slashes} % 2)); }; } # the quote after this is none
_bridge_items() { # the commas and colons of the outermost level; 0 when the wanted member has ended
  local IFS=\" strings string part parts head place=$at end left quoted=$inside
  from=${from:-$at} string=$text
  if [[ $plain && ! $colon ]]; then
    string=${text%%"$plain"*}; [[ $string != "$text" ]] || return
    from=$((at + ${#string})) place=$((from + ${#plain})) colon=$place string=${text:${#string}+${#plain}} quoted=0
    [[ ! ${want[1]+x} ]] || { value=${json:colon}; return; } # the next key is looked for inside; no need for the end
  fi
  strings=(${string}x)
  for string in "${strings[@]}"; do
    end=$((place + ${#string} + 1))
    if ((quoted)); then _bridge_escaped "$string" || quoted=0
    else
      IFS=, quoted=1; parts=(${string}x) left=${#parts[@]}
      for part in "${parts[@]}"; do
        [[ $part != *:* ]] || { head=${part%%:*}; colon=$((place + ${#head} + 1)); }
        ((--left)) || break
        ! _bridge_item $((place + ${#part})) || return 0
        place=$((place + ${#part} + 1))
      done
    fi
    place=$end
  done
  return 1
}
_bridge_item() { # END of a member or item; 0 when it is the wanted one
  local start=${colon:-$from} named=$colon key=$((index++))
  if [[ $named ]]; then
    key=${json:from:colon-1-from}; key=${key#*\"} key=${key%\"*}
    [[ $key != *\\* ]] || { local REPLY; bridge_text "\"$key\""; key=$REPLY; }
  fi
  from=$(($1 + 1)) colon=
  [[ $key == "${want-$key}" ]] || return
  value=${json:start:$1-start}
  [[ $value != [[:space:]]* && ${value: -1} != [[:space:]] ]] ||
    value=${value#"${value%%[![:space:]]*}"} value=${value%"${value##*[![:space:]]}"}
  [[ $value ]] || return # an empty container
  [[ ! ${want+x} ]] || return 0
  REPLY_VALUES+=("$value"); [[ ! $named ]] || REPLY_KEYS+=("$key"); return 1
}
