#!/bin/sh
# Runs the program of the same name with the lab's one repair of a library loaded (see the file that it names).
preload='--require /usr/local/lib/binder-control/find-and-modify.js'
case ${NODE_OPTIONS:-} in
  *"$preload"*) ;;
  *) export NODE_OPTIONS="$preload${NODE_OPTIONS:+ $NODE_OPTIONS}" ;;
esac
export NODE_PATH=/usr/local/lib/binder/node_modules
case ${0##*/} in
  pm2) exec node "$NODE_PATH/pm2/bin/pm2" "$@" ;;
  binder-control) exec node /usr/local/lib/binder-control/binder-control.js "$@" ;;
esac
