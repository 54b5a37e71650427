greeting Ada && [[ $REPLY == '"hello, Ada"' ]]
