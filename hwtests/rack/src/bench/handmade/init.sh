#!/bin/busybox sh
# Pours the image onto the disk and restarts.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/sbin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done </modules/order

cat >/bin/lease <<'LEASE'
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
LEASE
chmod 755 /bin/lease
ip link set eth0 up
udhcpc -i eth0 -n -q -s /bin/lease || exec sh

set -o pipefail
if wget -q -O - http://10.77.0.1/image.zst | zstd -d | dd of=/dev/vda bs=1M iflag=fullblock oflag=direct
then
    sync
    echo "handmade: the image is on the disk"
    reboot -f
fi
echo "handmade: the image is not on the disk"
exec sh
