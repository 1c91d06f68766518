// A disk with faults under a process that knows nothing of it: a library to be preloaded (LD_PRELOAD), for tests.
//
// The WAL's system calls do not go through libc, so they are caught in the kernel: a seccomp filter sends each call that
// concerns files as a signal (SIGSYS) to the thread that made it, and the handler carries it out, or does what a rule says. The
// filter lets calls from one instruction pass, that in `pass`. It needs no privileges, ends with the process, and the program under
// test is as it is delivered.
//
// Rules lie in a file that the test writes and this maps (`bad_disk.rs` has the same layout). What is not ruled passes.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { READS = 1, WRITES = 2, SYNCS = 4, OPENS = 8, NAMES = 16 };
enum { FAILS = 1, SLOW = 2, HANGS = 3, LOSES = 4, CUTS = 5, FLIPS = 6 };
enum { RULES = 8, PATH_BYTES = 464 };

struct rule {
    // Whether it stands. The test writes all else before.
    volatile uint32_t is_live;
    // Of which calls, by the bits above.
    uint32_t calls;
    uint32_t effect;
    // The number of the error, or milliseconds.
    uint32_t value;
    // Calls that pass before, and how often it comes true then.
    volatile int32_t skip;
    volatile int32_t times;
    // How often it did.
    volatile uint32_t hits;
    uint32_t unused;
    // Of `LOSES`: the file whose writes are being lost.
    volatile uint64_t inode;
    uint64_t unused_too;
    // `*` stands for anything.
    char path[PATH_BYTES];
};

struct control {
    // Whether any rule stands: without, no path is looked up.
    volatile uint32_t is_armed;
    // Calls that came through here: none means that nothing is tested.
    volatile uint32_t calls;
    char unused[56];
    struct rule rules[RULES];
};

static struct control *control;

// The one place from which the filter lets calls pass.
long pass(long number, long a, long b, long c, long d, long e, long f) __attribute__((visibility("hidden")));
extern char passed[] __attribute__((visibility("hidden")));
#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
__asm__(".text\n.hidden pass\n.globl pass\n.type pass,@function\npass:\n"
        "mov %rdi,%rax\nmov %rsi,%rdi\nmov %rdx,%rsi\nmov %rcx,%rdx\nmov %r8,%r10\nmov %r9,%r8\nmov 8(%rsp),%r9\n"
        "syscall\n.hidden passed\n.globl passed\npassed:\nret\n");
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
__asm__(".text\n.hidden pass\n.globl pass\n.type pass,%function\npass:\n"
        "mov x8,x0\nmov x0,x1\nmov x1,x2\nmov x2,x3\nmov x3,x4\nmov x4,x5\nmov x5,x6\n"
        "svc #0\n.hidden passed\n.globl passed\npassed:\nret\n");
#else
#error "this machine's calls are not known here"
#endif

// Newer or older headers lack some; a number that no call has stands for those.
#define NONE (-1L)
#ifndef SYS_open
#define SYS_open NONE
#define SYS_rename NONE
#define SYS_unlink NONE
#endif
#ifndef SYS_renameat
#define SYS_renameat NONE
#endif

static const struct {
    long number;
    uint32_t kind;
} CAUGHT[] = {
    {SYS_read, READS},          {SYS_pread64, READS},    {SYS_preadv, READS},     {SYS_preadv2, READS},
    {SYS_write, WRITES},        {SYS_pwrite64, WRITES},  {SYS_writev, WRITES},    {SYS_pwritev, WRITES},
    {SYS_pwritev2, WRITES},     {SYS_fallocate, WRITES}, {SYS_ftruncate, WRITES}, {SYS_fsync, SYNCS},
    {SYS_fdatasync, SYNCS},     {SYS_openat, OPENS},     {SYS_open, OPENS},       {SYS_rename, NAMES},
    {SYS_sync_file_range, SYNCS}, {SYS_renameat, NAMES}, {SYS_renameat2, NAMES},  {SYS_unlink, NAMES},
    {SYS_unlinkat, NAMES},
};
#define COUNT (sizeof CAUGHT / sizeof CAUGHT[0])

// Whether a path is as a rule's, in which `*` stands for anything.
static int fits(const char *rule, const char *path)
{
    const char *star = NULL, *from = NULL;
    while (*path) {
        if (*rule == '*') {
            star = rule++;
            from = path;
        } else if (*rule == *path) {
            rule++;
            path++;
        } else if (star) {
            rule = star + 1;
            path = ++from;
        } else {
            return 0;
        }
    }
    while (*rule == '*')
        rule++;
    return !*rule;
}

// The path behind a descriptor; no libc that might make a call of its own.
static size_t path_of(long descriptor, char *path, size_t room)
{
    char link[40] = "/proc/self/cwd";
    if (descriptor != AT_FDCWD) {
        char digits[24];
        size_t n = 0, at = strlen("/proc/self/fd/");
        memcpy(link, "/proc/self/fd/", at);
        for (unsigned long rest = (unsigned long)descriptor; n == 0 || rest; rest /= 10)
            digits[n++] = (char)('0' + rest % 10);
        while (n)
            link[at++] = digits[--n];
        link[at] = 0;
    }
    long length = pass(SYS_readlinkat, AT_FDCWD, (long)link, (long)path, (long)room - 1, 0, 0);
    length = length < 0 ? 0 : length;
    path[length] = 0;
    return (size_t)length;
}

static void path_by_name(long directory, const char *name, char *path, size_t room)
{
    size_t at = name[0] == '/' ? 0 : path_of((int)directory, path, room);
    if (at && at + 1 < room)
        path[at++] = '/';
    while (*name && at + 1 < room)
        path[at++] = *name++;
    path[at] = 0;
}

static void find_path(long number, const long *a, char *path, size_t room)
{
    if (number == SYS_open || number == SYS_rename || number == SYS_unlink)
        path_by_name(AT_FDCWD, (const char *)a[0], path, room);
    else if (number == SYS_openat || number == SYS_unlinkat || number == SYS_renameat || number == SYS_renameat2)
        path_by_name(a[0], (const char *)a[1], path, room);
    else
        path_of((int)a[0], path, room);
}

static uint64_t inode_of(long descriptor)
{
    struct stat found;
    memset(&found, 0, sizeof found);
    // glibc would make the call at its own place, which is not caught.
    return fstat((int)descriptor, &found) ? 0 : found.st_ino;
}

static int is_vector(long number)
{
    return number == SYS_writev || number == SYS_pwritev || number == SYS_pwritev2 || number == SYS_preadv
           || number == SYS_preadv2;
}

static long length_of(long number, const long *a)
{
    if (!is_vector(number))
        return a[2];
    long length = 0;
    for (long i = 0; i < a[2]; i++)
        length += (long)((const struct iovec *)a[1])[i].iov_len;
    return length;
}

static void pause_ms(uint32_t ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    pass(SYS_nanosleep, (long)&time, 0, 0, 0, 0, 0);
}

static long as_it_is(long number, const long *a)
{
    return pass(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

// Whether it is this one's turn: of those that fit, some pass before, and so many are hit.
static int comes_true(struct rule *rule)
{
    if (__atomic_fetch_sub(&rule->skip, 1, __ATOMIC_SEQ_CST) > 0)
        return 0;
    if (__atomic_fetch_sub(&rule->times, 1, __ATOMIC_SEQ_CST) <= 0)
        return 0;
    __atomic_fetch_add(&rule->hits, 1, __ATOMIC_SEQ_CST);
    return 1;
}

// Writes to one file are said to be done and are not, until its sync, which fails; from then on all is well. That is what a page
// cache may do whose writeback failed: the next sync proves nothing (fsyncgate).
static int lost(struct rule *rule, long number, uint32_t kind, const long *a, long *result)
{
    if (number == SYS_fallocate || number == SYS_ftruncate || number == SYS_sync_file_range)
        return 0;
    uint64_t inode = inode_of(a[0]), none = 0;
    if (kind == WRITES) {
        if (rule->inode != inode) {
            if (__atomic_fetch_sub(&rule->skip, 1, __ATOMIC_SEQ_CST) > 0)
                return 0;
            if (!__atomic_compare_exchange_n(&rule->inode, &none, inode, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                return 0;
        }
        *result = length_of(number, a);
        if (number == SYS_write || number == SYS_writev)
            pass(SYS_lseek, a[0], *result, SEEK_CUR, 0, 0, 0);
        return 1;
    }
    if (kind != SYNCS || rule->inode != inode)
        return 0;
    rule->is_live = 0;
    __atomic_fetch_add(&rule->hits, 1, __ATOMIC_SEQ_CST);
    *result = -(long)rule->value;
    return 1;
}

// Half of it, in whole blocks where there are any.
static long cut(long number, const long *a)
{
    long b[6];
    memcpy(b, a, sizeof b);
    if (number == SYS_read || number == SYS_pread64 || number == SYS_write || number == SYS_pwrite64) {
        long half = a[2] / 2;
        b[2] = half >= 4096 ? half / 4096 * 4096 : half > 0 && a[2] < 4096 ? half : a[2];
    } else if (is_vector(number) && a[2] > 1) {
        b[2] = 1;
    }
    return as_it_is(number, b);
}

static long flipped(long number, const long *a)
{
    long result = as_it_is(number, a);
    if (result > 0 && (number == SYS_read || number == SYS_pread64))
        ((unsigned char *)a[1])[result / 2] ^= 0x10;
    return result;
}

static long ruled(long number, uint32_t kind, const long *a)
{
    char path[1024];
    long result;
    find_path(number, a, path, sizeof path);
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &control->rules[i];
        if (!rule->is_live || !(rule->calls & kind) || !fits(rule->path, path))
            continue;
        if (rule->effect == LOSES) {
            if (lost(rule, number, kind, a, &result))
                return result;
            continue;
        }
        if (!comes_true(rule))
            continue;
        switch (rule->effect) {
        case FAILS:
            return -(long)rule->value;
        case SLOW:
            pause_ms(rule->value);
            break;
        case HANGS:
            while (rule->is_live)
                pause_ms(5);
            break;
        case CUTS:
            return cut(number, a);
        case FLIPS:
            return flipped(number, a);
        }
    }
    return as_it_is(number, a);
}

static void caught(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    int before = errno;
    ucontext_t *interrupted = context;
    long number = info->si_syscall;
#if defined(__x86_64__)
    greg_t *r = interrupted->uc_mcontext.gregs;
    long a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
#else
    unsigned long long *r = interrupted->uc_mcontext.regs;
    long a[6] = {(long)r[0], (long)r[1], (long)r[2], (long)r[3], (long)r[4], (long)r[5]};
#endif
    uint32_t kind = 0;
    for (size_t i = 0; i < COUNT; i++)
        if (CAUGHT[i].number == number)
            kind = CAUGHT[i].kind;
    __atomic_fetch_add(&control->calls, 1, __ATOMIC_RELAXED);
    long result = control->is_armed ? ruled(number, kind, a) : as_it_is(number, a);
#if defined(__x86_64__)
    r[REG_RAX] = result;
#else
    r[0] = (unsigned long long)result;
#endif
    errno = before;
}

static void give_up(const char *what)
{
    if (write(2, what, strlen(what)) < 0)
        _exit(122);
    _exit(121);
}

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("TOWLINE_BAD_DISK");
    if (!name)
        return;
    int file = open(name, O_RDWR | O_CLOEXEC);
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || control == MAP_FAILED)
        give_up("bad_disk: there is no file of rules\n");
    close(file);
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGSYS, &action, NULL);

    struct sock_filter filter[16 + 2 * COUNT], *next = filter;
    uint64_t from = (uint64_t)(uintptr_t)passed;
#define DO(code, k, yes, no) *next++ = (struct sock_filter){code, yes, no, k}
#define LOAD(field) DO(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offsetof(struct seccomp_data, field)), 0, 0)
    LOAD(arch);
    DO(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    DO(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    LOAD(instruction_pointer);
    DO(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)from, 0, 3);
    DO(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4, 0, 0);
    DO(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(from >> 32), 0, 1);
    DO(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    LOAD(nr);
    for (size_t i = 0; i < COUNT; i++) {
        if (CAUGHT[i].number == NONE)
            continue;
        DO(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)CAUGHT[i].number, 0, 1);
        DO(BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
    }
    DO(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    struct sock_fprog program = {(unsigned short)(next - filter), filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0))
        give_up("bad_disk: seccomp is refused here\n");
}
