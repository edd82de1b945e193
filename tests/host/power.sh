#!/bin/sh
# reboot, poweroff, halt and shutdown of a lab host: ask the first process, which ends the services before it goes.
# With -f nothing is asked, as with the real ones.
how=${0##*/}
force=
for word; do
  case $word in
    -f | --force) force=yes ;;
    -r | --reboot) how=reboot ;;
    -h | -P | -p | --halt | --poweroff) how=poweroff ;;
  esac
done
case $how in
  reboot) signal=INT ;;
  *) signal=USR2 how=poweroff ;;
esac
if [ -n "$force" ]; then exec busybox "$how" -f; fi
exec kill -s "$signal" 1
