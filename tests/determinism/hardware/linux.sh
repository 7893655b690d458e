#!/bin/busybox sh
# Boots Linux by `ftvm run --cpu kvm --alone`, types at its prompt, and presses its power button.
console=/run/linux-console
# Who wonders why it took too long looks there.
trap 'cat $console; exit 1' TERM

# Waits until the console says something, as long as the guest lives.
await() {
  until grep -q "$1" $console 2>/dev/null; do
    kill -0 $guest 2>/dev/null || return 1
    sleep 0.2
  done
}

ftvm run --name linux --alone --cpu kvm --memory 128 --console $console \
  --kernel /linux/kernel --initrd /linux/initrd --append "$(cat /linux/command-line)" &
guest=$!
# Not before somebody listens to the button.
listens='until ls -l /proc/[0-9]*/fd 2>&1 | grep -q /dev/input/event; do :; done'
await '/ # ' &&
  ftvm control linux console "$listens; echo \$(uname) is ready" &&
  await 'Linux is ready' &&
  ftvm control linux power-button
wait $guest
status=$?
cat $console
exit $status
