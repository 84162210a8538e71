/* The least that a monitor can be: what an exit costs with nothing around it.
 *
 *     kvmloop IMAGE             with KVM's interrupt controllers
 *     kvmloop IMAGE user        without, as pykvm has it with `interrupts: user`
 *     kvmloop IMAGE two         with them and a second CPU, which may do nothing that leaves KVM
 *
 * Runs a kernel made of guest.S: port 0x80 and memory that isn't there keep what was written last, com1 goes to
 * standard output, debug-exit ends it.
 *
 * Source: Documentation/virt/kvm/api.rst. */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RAM = 2 << 20, LOAD = 1 << 20, ENTRY_FIELD = 28, POST_PORT = 0x80, COM1 = 0x3f8, COM1_LSR = 0x3fd, DEBUG_EXIT = 0xf4 };
enum { THRE_AND_TEMT = 0x60, IDENTITY_MAP = 0xfeffc000, TSS = 0xfeffd000 };

static int check(int result, const char *what) {
    if (result < 0)
        err(69, "%s", what);
    return result;
}

static void *second(void *descriptor) {
    int vcpu = *(int *)descriptor;
    for (;;)
        if (ioctl(vcpu, KVM_RUN, 0) == 0 || errno != EAGAIN) /* which INIT makes of a wait for SIPI */
            errx(70, "the second CPU left KVM");
}

int main(int argc, char **argv) {
    int file = check(open(argv[1], O_RDONLY), argv[1]);
    int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    int vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    uint64_t identity = IDENTITY_MAP;
    check(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity), "KVM_SET_IDENTITY_MAP_ADDR");
    check(ioctl(vm, KVM_SET_TSS_ADDR, (unsigned long)TSS), "KVM_SET_TSS_ADDR");
    uint8_t *ram = mmap(0, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(read(file, ram + LOAD, RAM - LOAD), "read");
    struct kvm_userspace_memory_region region = {.memory_size = RAM, .userspace_addr = (uint64_t)ram};
    check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    const char *option = argc > 2 ? argv[2] : "";
    if (strcmp(option, "user"))
        check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    int vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    int size = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

    struct kvm_sregs sregs;
    check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    struct kvm_segment flat = {.limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
    sregs.cs = flat, sregs.cs.selector = 0x10, sregs.cs.type = 0xb;
    sregs.cr0 |= 1;
    check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    struct kvm_regs regs = {.rflags = 2};
    memcpy(&regs.rip, ram + LOAD + ENTRY_FIELD, 4);
    check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");

    int other;
    pthread_t thread;
    if (!strcmp(option, "two")) {
        other = check(ioctl(vm, KVM_CREATE_VCPU, 1), "KVM_CREATE_VCPU");
        if ((errno = pthread_create(&thread, 0, second, &other)))
            err(69, "pthread_create");
    }

    uint8_t *page = (uint8_t *)run;
    uint64_t kept = 0;
    for (;;) {
        check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
        if (run->exit_reason == KVM_EXIT_IO) {
            uint8_t *data = page + run->io.data_offset;
            if (run->io.direction == KVM_EXIT_IO_OUT) {
                if (run->io.port == POST_PORT)
                    memcpy(&kept, data, run->io.size);
                else if (run->io.port == COM1)
                    check(write(1, data, 1), "write");
                else if (run->io.port == DEBUG_EXIT)
                    return *data;
            } else
                memcpy(data, &kept, run->io.size);
            if (run->io.port == COM1_LSR)
                *data = THRE_AND_TEMT;
        } else if (run->exit_reason == KVM_EXIT_MMIO) {
            if (run->mmio.is_write)
                memcpy(&kept, run->mmio.data, run->mmio.len);
            else
                memcpy(run->mmio.data, &kept, run->mmio.len);
        } else
            errx(70, "exit %u", run->exit_reason);
    }
}
