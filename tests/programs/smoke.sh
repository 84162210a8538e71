# Busybox's applets at work on fixed data. The host and the guest run this with the same busybox, in an empty
# folder with samples.tar.xz; the output must be the same. Busybox's shell runs its applets without a PATH.
title() { echo "== $1"; }
sum() { md5sum | cut -d' ' -f1; }

title data
seq 1 8000 | awk '{ x = (x * 1103515245 + 12345) % 2147483648; print x, $1, "word" x % 97 }' >data
wc data
title checksums
for with in md5sum sha1sum sha256sum sha512sum sha3sum crc32; do $with <data; done
title sort
sort data | sum; sort -n data | sum; sort -k3,3 -k1nr data | sum; sort -u -k3,3 data | wc -l; sort -r data | head -3
cut -d' ' -f3 data | sort | uniq -c | sort -rn | head -5
title text
cut -c3-9 data | sum; tr a-z A-Z <data | sum; rev data | sum; tac data | sum; nl data | sum; fold -w 7 data | sum
head -n 7 data | expand -t 4 | unexpand; tail -n +7998 data; paste -d, data data | sum; cat -n data | tail -1
grep -c word5 data; grep -E '^[0-9]{9} .*7$' data | sum; fgrep -v word1 data | sum; egrep -o 'word(1|2)[0-9]' data | sum
sed -n '5,9s/word\([0-9]*\)/<\1>/p' data; sed -e 's/1/one/g;s/\(.\)o/o\1/2' data | sum; sed '$!N;s/\n/ /' data | sum
strings data | sum; dos2unix <data | sum; unix2dos <data | sum
title awk
awk '{ s += $1; n[$3]++ } END { printf "%d %.6f %s\n", s, s / NR, length(n) }' data
awk 'BEGIN { for (i = 1; i < 200; i++) printf "%.17g %.10e %g %d\n", i / 7, 1e300 / i, i * 1e-5, i * 12345.678 }' | sum
awk 'BEGIN { for (i = 0; i < 100000; i++) x = (x * 7 + i) % 1000003; print x; print substr("hello", 2, 3), index("hello", "l"), toupper("x") }'
awk -F' ' '{ gsub(/[0-4]/, "&&"); print }' data | sum
title numbers
expr 17 \* 23 + 4; expr match abcdef 'abc\(.*\)'; echo $((0x7fffffffffffffff)) $((-7 / 2)) $((-7 % 3)) $((1 << 40)) $((3 ** 4))
echo 'scale=60; 4*a(1); e(1); sqrt(2)' | bc -l; echo '2^400; 10^50/7; 2^64%1000007' | bc; echo '20k 2v p 7 3 ^ p 16o 255p' | dc
factor 1000000007 600851475143 1000000016000000063; seq -s, 1 0.25 3; printf '%5d|%-8s|%x|%o|%e|%.3f\n' 42 abc 255 8 12345.678 2.71828
title dumps
head -c 100 data | od -A d -t x1; head -c 64 data | od -t f8 | sum; head -c 50 data | hexdump -C; head -c 50 data | xxd; head -c 40 data | uuencode name
base64 data | sum; base64 data | base64 -d | cmp - data && echo same
title compression
for with in gzip bzip2 lzop; do $with -c data >packed; wc -c <packed; $with -dc <packed | sum; done
for level in 1 6 9; do gzip -$level -c data | gunzip -c | sum; bzip2 -$level -c data | bunzip2 -c | sum; done
gzip -c data | zcat | sum; bzip2 -c data | bzcat | sum
xz -dc samples.tar.xz | sum; xzcat samples.tar.xz | tar -t | sort; tar -xJf samples.tar.xz && cat samples/text | sum
title archives
mkdir -p tree/a/b tree/c; echo one >tree/a/1; echo two >tree/a/b/2; ln -s ../a/1 tree/c/link; head -c 100000 data >tree/c/large
tar -cf tree.tar tree; tar -tf tree.tar | sort; mkdir out; tar -xf tree.tar -C out; diff -r tree out/tree && echo same
gzip <tree.tar | gunzip | tar -xOf - tree/c/large | sum; find tree | sort | cpio -o -H newc 2>&1 | cpio -t 2>&1
title files
find tree -type f -size +1k; find tree -name '[0-9]' -exec cat {} + | sort; find tree -type l | xargs readlink; cp -r tree copy; mv copy/a copy/z
touch -d '2020-02-02 02:02:02' stamp; stat -c '%s %F %a %Y' stamp; chmod 640 stamp; stat -c %A stamp; test -L tree/c/link && echo link
dd if=data of=part bs=100 skip=3 count=50 2>/dev/null; sum <part; truncate -s 5000 part; stat -c %s part; ln part hard; stat -c %h hard; unlink hard
du -a tree | wc -l; df /proc | wc -l; basename /a/b.c .c; dirname /a/b/c; realpath /; mktemp -u x.XXXXXX | wc -c; rm -rf copy; ls -1 tree; ls -R tree | sum
cmp data part; shred -n 1 -z part && sum <part; fallocate -l 100 empty; stat -c %s empty; tee two <stamp | wc -c
title changes
sed 's/word1$/WORD/;7d' data >other; diff data other | sum; diff -u data other | tail -n +3 | sum; diff -u data other >changes; cp data patched; patch patched changes; cmp patched other && echo same
printf '%s\n' '2d' '$a' 'the end' . 'g/word9/s//nine/' w q | ed patched; sum <patched
title time
cal 2 2024; date -u -d '2024-02-29 12:34:56' +%s; date -u -d @1700000000 '+%Y-%m-%d %H:%M:%S %j %a'; usleep 1000; sleep 0; timeout 5 true && echo in time; timeout 1 sleep 9; echo $?
title processes
(exit 3); echo $?; sh -c 'kill -9 $$'; echo $?; for i in $(seq 100); do (echo $i); done | sum; yes | head -n 20000 | sum; env -i A=b env; setsid echo session
i=0; while [ $i -lt 5000 ]; do i=$((i + 1)); done; echo $i; seq 300 | xargs -n 7 echo | sum; mkfifo fifo; (cat data >fifo &); sum <fifo; trap 'echo trapped' USR1; kill -USR1 $$; wait
title shell
f() { [ $1 -lt 2 ] && echo $1 || echo $(($(f $(($1 - 1))) + $(f $(($1 - 2))))); }; f 10
s=abcdefabc; echo ${#s} ${s#*c} ${s##*c} ${s%a*} ${s%%a*} ${s/b/X} ${s//b/X} ${s:2:3} ${n:-none}; case $s in a?c*) echo match;; esac; set -- x "y z" w; echo $# "$2"; echo {a} "$(printf '%s-' "$@")"
while read -r a b c; do [ $b = 5 ] && echo "$c:$a"; done <data; cat <<END
$((6 * 7)) `echo here`
END
mkpasswd -m sha512 -S saltsalt secret; mkpasswd -m md5 -S salt secret; ipcalc -n 10.1.2.3/20; shuf -i 1-10 | sort -n | tr '\n' ' '; ascii | sum
title end
