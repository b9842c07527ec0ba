#!/usr/bin/env bash
# Makes the disk of a virtual machine, a Debian 12 with systemd, PostgreSQL and Docker, its kernel beside it, and prints
# the directory that holds them. What has been made once stays, until this script or the unit beside it is another.
#
# usage: scripts/vm/image.sh
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
. "$(dirname "$0")/../lib.sh"

place=$PWD/target/vm
# What the place was made of; it is written last.
made_of=$(cat scripts/vm/image.sh scripts/vm/checks.service | sha256sum)
if [ "$(cat "$place/made-of" 2>/dev/null)" != "$made_of" ]; then
    [ "$(id -u)" = 0 ] || fail "only root can make it"
    scripts/install-tools.sh mmdebstrap mke2fs
    rm -rf "$place"
    mkdir -p "$place"
    printf 'image: making %s\n' "$place/disk.ext4" >&2

    system=(systemd-sysv dbus udev kmod initramfs-tools linux-image-cloud-amd64 iproute2 sudo curl openssl python3)
    services=(postgresql docker.io docker-compose apparmor iptables busybox-static nodejs)
    packages=("${system[@]}" "${services[@]}")
    # Its administrator may become root without a password, and may use Docker.
    # shellcheck disable=SC2016  # $1 is the hook's.
    timeout -k 5 600 mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='chroot "$1" useradd --create-home --shell /bin/bash --groups docker admin' \
        --customize-hook='echo "admin ALL=(ALL:ALL) NOPASSWD: ALL" >"$1/etc/sudoers.d/admin"' \
        --customize-hook='echo vm >"$1/etc/hostname"; echo "127.0.0.1 localhost vm" >"$1/etc/hosts"' \
        --customize-hook='rm -f "$1/etc/resolv.conf"' \
        --customize-hook='chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer' \
        --customize-hook='copy-in scripts/vm/checks.service /etc/systemd/system' \
        --customize-hook='chroot "$1" systemctl --quiet enable checks.service' \
        bookworm "$place/root" || fail "cannot make a Debian"
    mv "$place"/root/boot/vmlinuz-* "$place/kernel"
    mv "$place"/root/boot/initrd.img-* "$place/initrd"
    truncate --size=4G "$place/disk.ext4"
    mke2fs -q -t ext4 -d "$place/root" "$place/disk.ext4" || fail "cannot make a file system"
    rm -rf "$place/root"
    echo "$made_of" >"$place/made-of"
fi
echo "$place"
