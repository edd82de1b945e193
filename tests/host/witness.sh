#!/bin/bash
# What sshd runs for every login: notes what was asked for, then does it as sshd would have.
# A line is the time in seconds and the command, quoted so that it stays one line.
if [ -z "${SSH_ORIGINAL_COMMAND+set}" ]; then
  printf '%(%s)T (a shell)\n' -1 >> /var/log/ssh-commands.log
  exec "$SHELL" -l
fi
command=$SSH_ORIGINAL_COMMAND
# Without it, nothing that the command starts can tell that somebody watches.
unset SSH_ORIGINAL_COMMAND
printf '%(%s)T %q\n' -1 "$command" >> /var/log/ssh-commands.log
exec "$SHELL" -c "$command"
