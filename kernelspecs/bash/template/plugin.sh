# What begins with `bridge_` is there already. Values are JSON; bridge_text and bridge_string convert; results are in REPLY.

greeting() { bridge_config greeting; bridge_text "$REPLY"; bridge_string "$REPLY, $1"; } # greeting NAME -> REPLY, JSON

greet() { bridge_text "$1"; greeting "$REPLY"; bridge_return "$REPLY"; } # greet(name): a greeting
bridge_export greet greet

plus_one() { bridge_integer "$1" && bridge_return $((REPLY + 1)); }
welcome() { # gets the event's data
  bridge_state_update my-plugin/count plus_one 0 && local count=$REPLY || return
  bridge_get "$1" name; bridge_text "$REPLY"; greeting "$REPLY"
  bridge_object text "$REPLY" count "$count"; bridge_emit my-plugin.greeted "$REPLY"
}
bridge_on 'guest.*' welcome
