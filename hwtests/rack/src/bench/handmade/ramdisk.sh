#!/bin/sh
# The RAM system that operators make by hand: Debian's kernel and busybox, the drivers of the one
# machine they have, zstd, and an init that pours an image onto the disk.
# usage: ramdisk.sh UNPACKED-KERNEL-PACKAGE INIT OUTPUT-FOLDER
set -eu

package=$1 init=$2 out=$3
base=$package
[ -d "$base/lib/modules" ] || base=$package/usr
version=$(ls "$base/lib/modules")
depmod -b "$base" "$version"

root=$out/root
rm -rf "$root"
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/modules"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$init" "$root/init"
chmod 755 "$root/init"
zstd=$(command -v zstd)
for file in "$zstd" $(ldd "$zstd" | grep -o '/[^ ]*'); do
    mkdir -p "$root${file%/*}"
    cp -L "$file" "$root$file"
done

# In the order in which they must be loaded, each once.
for module in virtio_pci virtio_blk virtio_net af_packet; do
    modprobe -d "$base" -S "$version" --show-depends "$module"
done | while read -r kind file _; do
    [ "$kind" = insmod ] || continue
    name=${file##*/}
    name=${name%%.ko*}.ko
    [ ! -e "$root/modules/$name" ] || continue
    case $file in
    *.xz) xz -dc "$file" >"$root/modules/$name" ;;
    *.zst) zstd -qdc "$file" >"$root/modules/$name" ;;
    *) cp "$file" "$root/modules/$name" ;;
    esac
    echo "$name" >>"$root/modules/order"
done

(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | zstd -q -19 -f -o ../ramdisk)
cp "$package/boot/vmlinuz-$version" "$out/kernel"
