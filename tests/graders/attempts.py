"""Attempts to get out of the sandbox. Each is the source of a grader whose `grade` gives 1.0 if the attempt succeeded.

`item` names what it is after (`prey`, in conftest). Those in CONTROLLED succeed outside of the sandbox: that is tested too, so
that none of them fails for a reason of its own.
"""

from __future__ import annotations

#: Before every attempt: `works` is 1.0 if one of the ways gives something true without an exception.
PREAMBLE = '''
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, stat, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"

def works(*ways):
    for way in ways:
        try:
            if way():
                return 1.0
        except Exception as error:
            LOG.append(f"{type(error).__name__}: {error}")
    return 0.0

LOG = []

def call(x86, arm, *arguments):
    """A system call by its number, past every wrapper; True if the kernel did it."""
    result = libc.syscall(arm if ARM else x86, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True

def read(path):
    with open(path, "rb") as file:
        return file.read()
'''

#: name → body of `grade(sample, item)`.
CONTROLLED = {
    # --- reading
    "read a file": "return works(lambda: read(item['secret']))",
    "read /etc/passwd": "return works(lambda: b'root' in read('/etc/passwd'))",
    "read the database": "import sqlite3\n    return works(lambda: sqlite3.connect(item['database']).execute('SELECT * FROM keys').fetchall())",
    "list a folder": "return works(lambda: os.listdir(item['folder']), lambda: list(os.scandir(item['folder'])))",
    "read by a path with ..": "return works(lambda: read('/tmp/../../' + item['secret']), lambda: (os.chdir(item['folder']), read('secret'))[1])",
    "read below an open folder": "return works(lambda: os.read(os.open(item['secret'].lstrip('/'), os.O_RDONLY, dir_fd=os.open('/', os.O_PATH)), 100))",
    "read through a symlink": "os.chdir('/tmp')\n    link = f'link-{os.getpid()}'\n    return works(lambda: os.symlink(item['secret'], link) or read(link))",
    "read with the C library": "libc.fopen.restype = ctypes.c_void_p\n    return works(lambda: libc.fopen(item['secret'].encode(), b'r'))",
    "read with a bare openat": "return works(lambda: call(257, 56, -100, item['secret'].encode(), 0))",
    "read with openat2": "how = struct.pack('QQQ', 0, 0, 0)\n    return works(lambda: call(437, 437, -100, item['secret'].encode(), how, 24))",
    "map a file into memory": "return works(lambda: mmap.mmap(os.open(item['secret'], os.O_RDONLY), 0, prot=mmap.PROT_READ)[:])",
    "read the memory of this process": "return works(lambda: open('/proc/self/mem', 'rb'))",
    "read the maps of the parent": "return works(lambda: read(f'/proc/{os.getppid()}/maps'))",
    "read the environment of the parent": "return works(lambda: os.listdir(f'/proc/{os.getppid()}'), lambda: open(f'/proc/{os.getppid()}/environ'))",
    "list the processes": "return works(lambda: len([name for name in os.listdir('/proc') if name.isdigit()]))",
    "read the machine's settings": "return works(lambda: read('/etc/hostname'), lambda: read('/sys/kernel/mm/transparent_hugepage/enabled'), lambda: read('/proc/cmdline'))",
    "import the server": "sys.path += item['sites']\n    import importlib\n    return works(lambda: importlib.import_module('milepost.config'))",
    "import the server's libraries": "sys.path += item['sites']\n    import importlib\n    return works(lambda: importlib.import_module('sqlalchemy'), lambda: importlib.import_module('uvicorn'))",
    "run the server's source": "return works(lambda: exec(read(item['sites'][0] + '/milepost/errors.py')) is None)",
    # --- writing
    "write a file": "return works(lambda: open(item['open'] + '/written', 'w').write('x'))",
    "overwrite a file": "return works(lambda: open(item['victim'], 'w').write('x'))",
    "append to a file": "return works(lambda: open(item['victim'], 'a').write('x'))",
    "cut a file": "return works(lambda: os.truncate(item['victim'], 0) is None)",
    "delete a file": "return works(lambda: os.unlink(item['victim']) is None)",
    "rename a file": "return works(lambda: os.rename(item['victim'], item['open'] + '/renamed') is None)",
    "make a folder": "return works(lambda: os.mkdir(item['open'] + '/folder') is None)",
    "make a hard link": "return works(lambda: os.link(item['victim'], item['open'] + '/link') is None)",
    "make a named pipe": "return works(lambda: os.mkfifo(item['open'] + '/pipe') is None)",
    "change a file's mode": "return works(lambda: os.chmod(item['victim'], 0o777) is None)",
    "change a file's times": "return works(lambda: os.utime(item['victim'], (0, 0)) is None)",
    # --- the network
    "connect over TCP": "return works(lambda: socket.create_connection(('127.0.0.1', item['port']), 1).send(b'x'))",
    "connect over TCP on IPv6": "return works(lambda: socket.socket(socket.AF_INET6))",
    "send over UDP": "return works(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)))",
    "connect to a Unix socket": "unix = lambda: socket.socket(socket.AF_UNIX)\n    return works(lambda: unix().connect(item['unix']) is None)",
    "connect to an abstract socket": "unix = lambda: socket.socket(socket.AF_UNIX)\n    return works(lambda: unix().connect(chr(0) + item['abstract']) is None)",
    "send a datagram from a pair of sockets": "pair = lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n    return works(pair)",
    "talk to the kernel over netlink": "return works(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))",
    "listen": "return works(lambda: socket.create_server(('127.0.0.1', 0)))",
    "make a socket with a bare system call": "return works(lambda: call(41, 198, 2, 1, 0))",
    # --- processes
    "fork": "def fork():\n        child = os.fork()\n        if child == 0:\n            os._exit(0)\n        return child\n    return works(fork)",
    "fork with a bare clone": "def clone():\n        child = libc.syscall(220 if ARM else 56, 17, 0, 0, 0, 0)\n        if child == 0:\n            os._exit(0)\n        return child > 0\n    return works(clone)",
    "leave a daemon": "def leave():\n        child = os.fork()\n        if child == 0:\n            os.setsid()\n            if os.fork() == 0:\n                time.sleep(1)\n                open(item['open'] + '/daemon', 'w')\n            os._exit(0)\n        return child\n    return works(leave)",
    "run a shell": "return works(lambda: subprocess.run(['/bin/sh', '-c', f'echo > {item[\"open\"]}/shell']).returncode == 0, lambda: os.system('true') == 0)",
    "spawn a program": "return works(lambda: os.posix_spawn('/bin/true', ['true'], {}))",
    "start Python anew": "return works(lambda: subprocess.run([item['python'], '-c', 'pass']).returncode == 0)",
    "use multiprocessing": "import multiprocessing\n    context = multiprocessing.get_context('fork')\n    def start():\n        process = context.Process(target=int)\n        process.start()\n        return True\n    return works(start)",
    "run a program from memory": "def run():\n        file = os.memfd_create('x')\n        return file\n    return works(run)",
    "signal a process": "return works(lambda: os.kill(item['pid'], 0) is None)",
    "kill a process": "return works(lambda: os.kill(item['pid'], signal.SIGKILL) is None)",
    "signal a process by its thread": "return works(lambda: call(234, 131, item['pid'], item['pid'], 0))",
    "signal a process by a descriptor": "return works(lambda: signal.pidfd_send_signal(os.pidfd_open(item['pid']), 0) is None)",
    "have the kernel signal a process": "def own():\n        reading, writing = os.pipe()\n        fcntl.fcntl(reading, fcntl.F_SETOWN, item['pid'])\n        fcntl.fcntl(reading, 10, signal.SIGKILL)\n        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)\n        os.write(writing, b'x')\n        return True\n    return works(own)",
    "leave the group that is killed": "return works(lambda: os.setpgid(0, 0) is None)",
    "limit another process": "return works(lambda: resource.prlimit(item['pid'], resource.RLIMIT_CORE, (0, 0)))",
    "take all processors": "return works(lambda: os.sched_setaffinity(0, range(os.cpu_count())) is None and len(os.sched_getaffinity(0)) == os.cpu_count() and os.getpriority(os.PRIO_PROCESS, 0) < 5)",
    # --- the kernel
    "share System V memory": "return works(lambda: libc.shmget(0, 4096, 0o1600) >= 0)",
    "share POSIX memory": "from multiprocessing import shared_memory\n    return works(lambda: shared_memory.SharedMemory(create=True, size=4096).unlink() is None)",
    "open a message queue": "return works(lambda: call(68, 186, 0, 0o1600))",
    "watch files": "return works(lambda: call(294, 26, 0))",
    "find a file's handle": "handle = struct.pack('Ii', 128, 0) + bytes(128)\n    return works(lambda: call(303, 264, -100, item['folder'].encode(), handle, ctypes.byref(ctypes.c_int()), 0))",
}

#: What only root may, what would do harm, or what is no harm outside.
OTHERS = {
    "read a descriptor that was left open": "return works(*(lambda fd=fd: os.fstat(fd) for fd in range(4, 256)), lambda: os.pread(3, 1, 0))",
    "read /etc/shadow": "return works(lambda: read('/etc/shadow'))",
    "read the environment of init": "return works(lambda: read('/proc/1/environ'))",
    "read the file system's disk": "return works(*(lambda disk=disk: os.open(disk, os.O_RDONLY) for disk in ('/dev/vda', '/dev/sda', '/dev/mem', '/dev/kmsg')))",
    "make a disk": "return works(lambda: os.mknod('/tmp/disk', stat.S_IFBLK | 0o666, os.makedev(254, 0)) is None)",
    "give a file away": "return works(lambda: os.chown(item['victim'], 12345, 12345) is None)",
    "change the standard library": "return works(lambda: open(os.__file__, 'a'), lambda: open(os.path.dirname(os.__file__) + '/evil.py', 'w'))",
    "change a package": "import numpy\n    return works(lambda: open(numpy.__file__, 'a'), lambda: os.unlink(numpy.__file__) is None)",
    "read the server's environment": "return works(lambda: any(item['marker'] in value for value in os.environ.values()), lambda: item['marker'].encode() in read('/proc/self/environ'))",
    "see packets": "return works(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3), lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), lambda: socket.socket(38, socket.SOCK_SEQPACKET), lambda: socket.socket(40, 1))",
    "resolve a name": "return works(lambda: socket.getaddrinfo('example.com', 443))",
    "kill the parent": "return works(lambda: os.kill(os.getppid(), signal.SIGKILL) is None)",
    "kill everything": "return works(lambda: os.kill(-1, signal.SIGKILL) is None, lambda: os.killpg(0, signal.SIGKILL) is None)",
    "trace the parent": "return works(lambda: libc.ptrace(0x4206, os.getppid(), 0, 0) == 0, lambda: libc.ptrace(16, item['pid'], 0, 0) == 0)",
    "have oneself traced": "return works(lambda: libc.ptrace(0, 0, 0, 0) == 0)",
    "read another process's memory": "vector = struct.pack('QQ', 4096, 8)\n    return works(lambda: call(310, 270, item['pid'], vector, 1, vector, 1, 0))",
    "begin a session": "return works(lambda: os.setsid() >= 0)",
    "replace the process by a shell": "return works(lambda: os.execv('/bin/sh', ['sh', '-c', f'echo > {item[\"open\"]}/shell']))",
    "start a program with execveat": "return works(lambda: call(322, 281, -100, b'/bin/true', 0, 0, 0))",
    "fork with clone3": "return works(lambda: call(435, 435, struct.pack('QQQQQQQQ', 0, 0, 0, 0, 17, 0, 0, 0), 64))",
    "fork and fork": "children = 0\n    while children < 1000:\n        try:\n            if os.fork() == 0:\n                time.sleep(60)\n            children += 1\n        except OSError:\n            break\n    return float(children > 0)",
    "become root": "return works(lambda: os.setuid(0) is None and os.getuid() == 0 and read('/etc/shadow'), lambda: os.setresuid(0, 0, 0) is None and True)",
    "become another group": "return works(lambda: os.setgroups([0]) is None, lambda: os.setgid(0) is None)",
    "raise one's limits": "return works(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)) is None, lambda: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)) is None)",
    "go first": "return works(lambda: os.nice(-5), lambda: os.setpriority(os.PRIO_PROCESS, 0, -5) is None)",
    "take capabilities": "return works(lambda: libc.capset(struct.pack('Ii', 0x20080522, 0), b'\\xff' * 24) == 0)",
    "enter a user namespace": "return works(lambda: libc.unshare(0x10000000) == 0)",
    "enter a mount namespace": "return works(lambda: libc.unshare(0x20000) == 0)",
    "enter the namespaces of init": "return works(lambda: libc.setns(os.open('/proc/1/ns/mnt', os.O_RDONLY), 0) == 0, lambda: call(308, 268, 0, 0))",
    "mount": "return works(lambda: libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0)",
    "mount the process table": "return works(lambda: os.mkdir('/tmp/proc') or libc.mount(b'proc', b'/tmp/proc', b'proc', 0, None) == 0)",
    "mount with the new calls": "return works(lambda: call(428, 428, -100, b'/', 1), lambda: call(430, 430, b'tmpfs', 0))",
    "unmount": "return works(*(lambda p=p: libc.umount2(p, 2) == 0 for p in (b'/', b'/tmp', b'/dev/null')))",
    "make the root writable": "return works(lambda: libc.mount(None, b'/', None, 32 | 4096, None) == 0)",
    "change the root": "return works(lambda: os.chroot('/tmp') is None)",
    "pivot the root": "return works(lambda: call(155, 41, b'.', b'.'))",
    "open a file by its handle": "return works(lambda: call(304, 265, -100, struct.pack('Ii', 8, 1) + bytes(8), 0))",
    "use io_uring": "return works(lambda: call(425, 425, 8, bytes(120)))",
    "load a bpf program": "return works(lambda: call(321, 280, 0, bytes(128), 128))",
    "count the processor's events": "return works(lambda: call(298, 241, bytes(128), 0, -1, -1, 0))",
    "keep a key": "return works(lambda: call(248, 217, b'user', b'name', b'value', 5, -3), lambda: call(250, 219, 0, -3, 0))",
    "catch page faults": "return works(lambda: call(323, 282, 0))",
    "load a module": "return works(lambda: call(175, 105, b'', 0, b''), lambda: call(313, 273, 0, b'', 0))",
    "name the machine": "return works(lambda: socket.sethostname('owned') is None)",
    "set the clock": "return works(lambda: time.clock_settime(time.CLOCK_REALTIME, 0) is None)",
    "type into a terminal": "return works(lambda: fcntl.ioctl(0, 0x5412, b'x') == 0, lambda: os.open('/dev/tty', os.O_RDWR), lambda: os.openpty())",
    "undo the rules": "return works(lambda: libc.prctl(38, 0, 0, 0, 0) == 0, lambda: libc.prctl(4, 1, 0, 0, 0) == 0, lambda: libc.prctl(22, 0, 0, 0, 0) == 0)",
    "add rules": "return works(lambda: libc.prctl(22, 2, 0, 0, 0) == 0, lambda: call(317, 277, 1, 0, 0), lambda: call(444, 444, 0, 0, 1))",
}

#: Descriptors first: made together, some of the others leave one open.
ATTEMPTS = OTHERS | CONTROLLED


def source(body: str) -> str:
    return f"{PREAMBLE}\ndef grade(sample, item):\n    {body}\n"


def together(attempts: dict[str, str]) -> str:
    """One grader that makes all of them, prints the names of those that succeed, and gives their number."""
    functions = [f"def attempt_{n}(sample, item):\n    {body}\n" for n, body in enumerate(attempts.values())]
    calls = ", ".join(f"({name!r}, attempt_{n})" for n, name in enumerate(attempts))
    return "\n".join([PREAMBLE, *functions, f"ATTEMPTS = [{calls}]", TOGETHER])


TOGETHER = """
def grade(sample, item):
    succeeded = [name for name, attempt in ATTEMPTS if attempt(sample, item) != 0.0]
    print(*succeeded, sep=", ")
    return float(len(succeeded))
"""
