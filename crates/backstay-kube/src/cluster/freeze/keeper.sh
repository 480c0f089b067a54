# Runs one action in a container, and ends it when told to. A closed stream does not end a process there; this does.
#   $1 name of its folder   $2 seconds it may take in all   $3 seconds to end in after it held   $4 the command
# Prints `holding` when the command runs $WAIT_CMD, `released` when it is told to stop, and `end CODE` when it ended: an
# end without a release before it is a lock that was lost. What the command itself prints goes to standard error. Told to stop by a line on standard input or by its end, by a line in the folder's `words`, or by
# the clock. Then $WAIT_CMD comes back, and a command that held has time to end; any other is killed at once.
exec 3<&0 </dev/null
folder=
for base in /dev/shm /tmp; do
    if (umask 077 && mkdir "$base/$1") 2>/dev/null; then
        folder=$base/$1
        break
    fi
done
if [ -z "$folder" ]; then
    echo "neither /dev/shm nor /tmp can be written to" >&2
    exit 125
fi
if ! mkfifo "$folder/words" "$folder/gate" "$folder/news"; then
    rm -rf "$folder"
    exit 125
fi
echo "{ echo >'$folder/news'; read -r _ <'$folder/gate'; } 2>/dev/null; exit 0" >"$folder/wait"
WAIT_CMD="sh $folder/wait"
export WAIT_CMD

# Of a session of its own, where there is a command for it, so that its children end with it.
if command -v setsid >/dev/null 2>&1; then
    group=-
    setsid sh -c "$4" >&2 3<&- &
else
    group=
    sh -c "$4" >&2 3<&- &
fi
action=$!
# From here on nobody may be listening: that must not keep the gate from opening.
trap '' PIPE

nap() {
    sleep "$1" >/dev/null 2>&1 &
    sleeper=$!
    trap 'kill "$sleeper"; wait "$sleeper"; exit 0' TERM
    wait "$sleeper"
    trap - TERM
}
while read -r _ <"$folder/news"; do
    : >"$folder/held"
    echo holding
done 2>/dev/null 3<&- &
announcer=$!
{ read -r _ <&3; echo >"$folder/words"; } >/dev/null 2>&1 &
listener=$!
{ nap "$2"; echo >"$folder/words"; } >/dev/null 2>&1 3<&- &
clock=$!
{
    exec 5<>"$folder/gate"
    read -r _ <"$folder/words"
    echo released
    rm -f "$folder/gate"
    exec 5<&-
    [ ! -e "$folder/held" ] || nap "$3"
    kill -TERM "$group$action"
    nap 2
    kill -KILL "$group$action"
} 2>/dev/null 3<&- &
warden=$!
exec 3<&-

wait "$action"
code=$?
kill "$announcer" "$listener" "$clock" "$warden" 2>/dev/null
# What ends after its parent is the child of the container's first process, which may never look: a zombie for each.
wait "$announcer" "$listener" "$clock" "$warden" 2>/dev/null
rm -rf "$folder"
echo "end $code"
exit "$code"
