# Ends an action that its owner left behind: tells its keeper, and waits until it is gone.
#   $1 name of the keeper's folder   $2 seconds to wait
for base in /dev/shm /tmp; do
    folder=$base/$1
    [ -d "$folder" ] || continue
    # Opened for reading too: a keeper that was killed reads nothing, and must not be waited for.
    echo 1<>"$folder/words"
    seconds=0
    while [ -d "$folder" ] && [ "$seconds" -lt "$2" ]; do
        sleep 1
        seconds=$((seconds + 1))
    done
    rm -rf "$folder"
done
