#!/usr/bin/env bash
# Makes the small disks in seeds/, which the fuzzer begins with: all as their own tools make them. As root, on Debian
# with the packages of tests/src/packages.rs. Files are full of one letter, so that what is left is metadata.
# Usage: make.sh DIRECTORY [NAME...]
set -euo pipefail
directory=$(realpath "$1"); shift
work=$(mktemp -d); trap 'cd /; umount -q "$work/mnt" || true; rm -rf "$work"' EXIT
cd "$work"; mkdir mnt files
export PATH=$PATH:/usr/sbin:/sbin

mkdir -p files/a/b/c files/d
for number in $(seq 1 24); do
  head -c $((number * 7919 % 60000 + 1)) /dev/zero | tr '\0' x > "files/a/file$number"
  echo x > "files/d/a rather long name, so that directories become large $number"
done
head -c 300000 /dev/zero | tr '\0' x > files/a/b/c/large
truncate -s 200000 files/d/hole

chosen=("$@")
wanted() { [ ${#chosen[@]} = 0 ] || [[ " ${chosen[*]} " = *" $1 "* ]]; }
pack() { zstd -q -19 -f disk -o "$directory/$1.zst"; rm disk; }

# Copies files, deletes some, on what is mounted at mnt.
live() {
  cp -r files/. mnt/ 2> /dev/null || cp -rL files/. mnt/
  for number in $(seq 1 40); do head -c 9000 /dev/zero | tr '\0' y > "mnt/y$number"; done
  sync
  for number in $(seq 1 3 40); do rm "mnt/y$number"; done
  rm mnt/a/file5 mnt/a/file1*
  cp -r files mnt/again
}
mounted() { # type, options
  mount -t "$1" -o "loop,$2" disk mnt
  live
  umount mnt
}

ext() { # name, MiB, mke2fs arguments
  wanted "$1" || return 0
  truncate -s "$2M" disk
  mke2fs -q -F $3 -d files disk
  for number in 3 7 8 11 12; do echo "rm a/file$number"; done | debugfs -w -f - disk > /dev/null 2>&1
  pack "$1"
}
ext ext-ext4 8 "-t ext4 -b 1024 -g 1024 -J size=1"
ext ext-ext4-4k 16 "-t ext4 -b 4096 -O ^has_journal"
ext ext-ext2 4 "-t ext2 -b 1024 -r 0 -O none"
ext ext-ext3 8 "-t ext3 -b 1024 -J size=1"
ext ext-bigalloc 32 "-t ext4 -b 1024 -O bigalloc -C 8192 -J size=1"
ext ext-uninit 8 "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit -g 2048 -J size=1"
ext ext-meta-bg 8 "-t ext4 -b 1024 -O meta_bg,^resize_inode -g 256 -J size=1"

xfs() { # name, mkfs.xfs arguments
  wanted "$1" || return 0
  truncate -s 300M disk
  mkfs.xfs -q -f $2 disk
  mounted xfs nodiscard
  pack "$1"
}
xfs xfs-v5 "-d agcount=4"
xfs xfs-v5-1k "-b size=1024 -d agcount=3 -m rmapbt=1,reflink=1"
if wanted xfs-v4; then
  # Kernels do not mount it any more.
  truncate -s 300M disk
  {
    printf '/dev/null\n0 0\nd--755 0 0\n'
    for number in $(seq 1 24); do echo "file$number ---644 0 0 files/a/file$number"; done
    printf '$\n'
  } > proto
  mkfs.xfs -q -f -m crc=0 -d agcount=4 -p proto disk 2> /dev/null
  pack xfs-v4
fi

btrfs() { # name, mkfs.btrfs arguments, mount options
  wanted "$1" || return 0
  truncate -s 128M disk
  mkfs.btrfs -q -f $2 disk
  mounted btrfs "nodiscard$3"
  pack "$1"
}
btrfs btrfs-single "-n 4096 -m single -d single" ""
btrfs btrfs-dup "-n 16384 -m dup" ""
btrfs btrfs-mixed "-n 4096 -M" ""

ntfs() { # name, mkntfs arguments
  wanted "$1" || return 0
  truncate -s 12M disk
  mkntfs -q -F -Q $2 disk > /dev/null
  ntfs-3g disk mnt; live; umount mnt
  pack "$1"
}
ntfs ntfs-4k "-c 4096"
ntfs ntfs-512 "-c 512"

fat() { # name, MiB, mkfs.fat arguments
  wanted "$1" || return 0
  truncate -s "$2M" disk
  mkfs.fat $3 disk > /dev/null
  mcopy -s -i disk files/* ::
  mdel -i disk ::a/file5 '::a/file1*'
  mcopy -s -i disk files ::again
  pack "$1"
}
fat fat-12 4 "-F 12 -s 4"
fat fat-16 24 "-F 16 -s 2"
fat fat-32 40 "-F 32 -s 1"

if wanted exfat; then
  truncate -s 12M disk
  mkfs.exfat disk > /dev/null
  device=$(losetup --find --show disk)
  mount.exfat-fuse "$device" mnt > /dev/null; live; umount mnt
  losetup --detach "$device"
  pack exfat
fi

f2fs() { # name, mkfs.f2fs arguments
  wanted "$1" || return 0
  truncate -s 64M disk
  mkfs.f2fs -q -f $2 disk > /dev/null
  sload.f2fs -f files disk > /dev/null
  pack "$1"
}
f2fs f2fs ""
f2fs f2fs-extra "-O extra_attr,inode_checksum,sb_checksum,inode_crtime"

ufs() { # name, makefs options
  wanted "$1" || return 0
  makefs -t ffs -s 8m -o "$2" disk files > /dev/null
  pack "$1"
}
ufs ufs-1 "version=1,bsize=8192,fsize=1024"
ufs ufs-2 "version=2,bsize=16384,fsize=2048"

if wanted swap; then
  truncate -s 4M disk
  mkswap -q -L paging disk
  pack swap
fi

lvm() { # name, sizes of logical volumes
  wanted "$1" || return 0
  truncate -s 32M disk
  device=$(losetup --find --show disk)
  quiet="--devices $device --driverloaded n -qq"
  pvcreate -ff -y $quiet "$device"
  vgcreate $quiet -s 1m golden "$device"
  for size in $2; do
    lvcreate $quiet -an -Zn -Wn -y -L "$size" -n "volume$size" golden
  done
  lvremove $quiet -y golden/volume2m
  lvcreate $quiet -an -Zn -Wn -y -l 100%FREE -n rest golden || true
  losetup --detach "$device"
  # The first volume begins where the first extent does.
  mke2fs -q -F -t ext4 -b 1024 -E offset=1048576 disk 4096
  pack "$1"
}
lvm lvm "4m 2m 8m 3m"

if wanted table-gpt; then
  truncate -s 32M disk
  sgdisk -n 1:2048:+4M -c 1:boot -n 2:0:+3M -n 4:0:+8M -n 3:0:+2M disk > /dev/null
  mke2fs -q -F -t ext4 -b 1024 -J size=1 -E offset=$((2048 * 512)) disk 4096
  mkswap -q --offset $((10240 * 512)) disk || true
  pack table-gpt
fi
if wanted table-mbr; then
  truncate -s 48M disk
  sfdisk -q disk <<'END'
label: dos
2048,8192,83,*
,4096,82
16384,65536,5
81920,,83
18432,8192,83
28672,4096,83
34816,8192,83
END
  mke2fs -q -F -t ext2 -b 1024 -E offset=$((18432 * 512)) disk 4096
  mke2fs -q -F -t ext2 -b 1024 -E offset=$((34816 * 512)) disk 4096
  pack table-mbr
fi
if wanted table-bsd; then
  truncate -s 32M disk
  echo '2048,40960,a5' | sfdisk -q --label dos disk
  makefs -t ffs -s 4m -o version=2 part files > /dev/null
  # A nested label: a partition for the filesystem, one unused.
  printf '%s\n' b y n a 4096 +4M n d 20480 +4M t a 4.2BSD w | fdisk disk > /dev/null 2>&1 || true
  dd if=part of=disk bs=512 seek=4096 conv=notrunc status=none
  pack table-bsd
fi
