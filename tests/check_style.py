#!/usr/bin/env python3
"""Checks of the rules that a compiler cannot see: layers, system headers, lengths, header contracts, banned calls.

usage: check_style.py [--root FOLDER]. Prints one line per finding and a closing line 'N passed, N failed'.
Every rule is first tried on a small wrong text, and fails the run when it does not find it.
"""
import pathlib
import re
import sys

LINE_COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 800
CONTRACT_LINES_MAX = 15

LAYERS = {  # folder -> folders that it may include from
    "core": {"core"},
    "tls": {"core", "tls"},
    "relay": {"core", "tls", "relay"},
    "bench": {"core", "tls", "relay", "bench"},
    "tests": {"core", "tls", "relay", "bench", "tests"},
}

# Headers that open a door to the kernel or to threads. Those that only carry types and pure functions
# (arpa/inet.h, netinet/in.h, sys/types.h, sys/uio.h) are no doors.
SYSTEM_HEADERS = re.compile(
    r"(sys/(?!types\.h|uio\.h|cdefs\.h|param\.h|queue\.h)\S+|linux/\S+|unistd\.h|fcntl\.h|pthread\.h|threads\.h"
    r"|signal\.h|poll\.h|sched\.h|liburing\S*|netdb\.h|dirent\.h|syslog\.h|termios\.h|spawn\.h|semaphore\.h"
    r"|dlfcn\.h|ifaddrs\.h|net/\S+|netinet/tcp\.h|aio\.h|mqueue\.h|pwd\.h|grp\.h)$")

# file -> why it may include system headers. The four doors of the design come first; keep the rest short.
SYSTEM_FILES = {
    "core/io_uring.c": "the door to the kernel",
    "core/io_uring_private.h": "what the two files of that door share",
    "core/io_file.c": "the same door, for files",
    "core/io_acknowledged.c": "the same door, for one question about a connection",
    "core/io_error.c": "what its errors mean",
    "relay/sandbox/privileges.c": "users, groups, capabilities",
    "relay/sandbox/landlock.c": "what files and ports the process can reach",
    "relay/sandbox/filter.c": "what system calls a thread can make",
    "relay/sandbox/sandbox.c": "both, as the configuration needs them",
    "core/clock.c": "time",
    "core/log_writer.c": "the thread that writes the log",
    "bench/commit_loop.c": "what the disk can do without us: shares no code with the relay",
    "relay/main.c": "arguments",
    "relay/descriptors.c": "the limit of open files",
    "relay/process.c": "process start: signals, worker threads",
    "relay/tools/argument.c": "options of the tools",
    "relay/tools/queue_stored.c": "files of a spool, read beside the process that writes them",
    "relay/tools/send.c": "start of the test client: name lookup",
    "relay/tools/sink.c": "start of the test next hop: threads, signals",
    "relay/tools/sink_maildir.c": "its mail in files",
    "relay/stats/stats_server.c": "the thread that answers scrapes, so that none delays a worker",
    "relay/stats/stats_socket.c": "the sockets of that thread",
}

BANNED_CALLS = {
    "strcpy": "memcpy with a known length, or outbuf_add",
    "strcat": "outbuf_add",
    "strncpy": "memcpy with a known length",
    "sprintf": "snprintf, or outbuf_add_number",
    "vsprintf": "vsnprintf",
    "gets": "fgets",
    "strtok": "span functions",
    "atoi": "a parser that reports errors (strtol with end pointer)",
    "atol": "a parser that reports errors (strtol with end pointer)",
    "atof": "a parser that reports errors (strtod with end pointer)",
}
TOLERATED_IN_TESTS = {"strcpy", "strcat"}  # of the tests' own literals, under the address sanitizer


def without_comments_and_strings(text):
    """The same text with comments and literals blanked out, line structure kept."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''

    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0))

    return re.sub(pattern, blank, text, flags=re.S)


def check_layers(path, text):
    own = path.split("/")[0]
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        if not match:
            continue
        target = match.group(1)
        folder = target.split("/")[0]
        if "/" not in target:
            yield number, f'include "{target}" names no folder: write "{own}/{target}"'
        elif folder not in LAYERS.get(own, set()):
            yield number, f"{own}/ must not include {target}"


def check_system_headers(path, text):
    if path.split("/")[0] not in ("core", "tls", "relay") or path in SYSTEM_FILES:
        return
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r"\s*#\s*include\s*<([^>]+)>", line)
        if match and SYSTEM_HEADERS.match(match.group(1)):
            yield number, f"<{match.group(1)}> is for the files in SYSTEM_FILES of tests/check_style.py alone"


def check_line_length(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LINE_COLUMNS_MAX:
            yield number, f"line has {len(line)} columns, more than {LINE_COLUMNS_MAX}"


def check_white_space(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield number, "white space at the end of the line"
        if "\t" in line:
            yield number, "tab in a C file"
    if text and not text.endswith("\n"):
        yield text.count("\n") + 1, "no newline at the end of the file"


def check_file_length(path, text):
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        yield lines, f"file has {lines} lines, more than {FILE_LINES_MAX}"


def check_function_length(path, text):
    """A function's body opens with a brace at column 0 and ends with one (the style's own rule)."""
    lines = without_comments_and_strings(text).split("\n")
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and line.rstrip() == "{":
            start = number
        elif start is not None and line.startswith("}"):
            length = number - start - 1
            if length > FUNCTION_LINES_MAX:
                yield start, f"function has {length} lines, more than {FUNCTION_LINES_MAX}"
            start = None


def check_brace(path, text):
    for number, line in enumerate(without_comments_and_strings(text).split("\n"), 1):
        if re.match(r"[A-Za-z_][\w\s*]*\([^;{}]*\)\s*\{\s*$", line) and not line.startswith(("struct", "enum")):
            if not re.match(r"(TEST|Test|Theory|ParameterizedTest|TheoryDataPoints|#)", line):
                yield number, "a function's opening brace stands on a line of its own"


def check_unfinished(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        match = re.search(r"\b(TODO|FIXME|XXX)\b", line)
        if match:
            yield number, f"unfinished: {match.group(1)}"


def check_header(path, text):
    if not path.endswith(".h"):
        return
    block = re.match(r"/\*(.*?)\*/\n", text, re.S)
    if not block:
        yield 1, "a header opens with its contract block"
    else:
        lines = block.group(0).count("\n")
        if lines > CONTRACT_LINES_MAX:
            yield 1, f"the contract block has {lines} lines, more than {CONTRACT_LINES_MAX}"
        name = pathlib.PurePath(path).stem
        if not block.group(0).startswith(f"/* {name}: "):
            yield 1, f"the contract block begins with '{name}: '"
    folder, name = path.split("/")[0].upper(), pathlib.PurePath(path).stem.upper()
    guard = re.search(r"#ifndef (\w+)\n#define \1\n", text)
    if not guard or not re.fullmatch(rf"RINGPOST_{folder}_(\w+_)?{name}_H", guard.group(1)):
        yield 1, f"include guard RINGPOST_{folder}_{name}_H is missing"


def check_opening(path, text):
    if path.endswith(".c") and not re.match(r"\s*(/\*|//)", text):
        yield 1, "a source file opens with a comment saying why it exists"


def check_banned_calls(path, text):
    for number, line in enumerate(without_comments_and_strings(text).split("\n"), 1):
        for match in re.finditer(r"(?<![\w.>])(" + "|".join(BANNED_CALLS) + r")\s*\(", line):
            if path.startswith("tests/") and match.group(1) in TOLERATED_IN_TESTS:
                continue
            yield number, f"{match.group(1)}() is banned: use {BANNED_CALLS[match.group(1)]}"


def check_typedef(path, text):
    for number, line in enumerate(without_comments_and_strings(text).split("\n"), 1):
        if re.match(r"\s*typedef\s+(struct|union|enum)\b[^()]*$", line):
            yield number, "no typedef of a struct, union or enum"


RULES = [  # (rule, a path and text that it must find wrong, a text that it must pass)
    (check_layers, "core/a.c", '#include "relay/b.h"\n', '#include "core/b.h"\n'),
    (check_system_headers, "relay/a.c", "#include <sys/socket.h>\n", "#include <string.h>\n"),
    (check_line_length, "core/a.c", "x" * 101 + "\n", "x" * 100 + "\n"),
    (check_white_space, "core/a.c", "int a; \n", "int a;\n"),
    (check_file_length, "core/a.c", "int a;\n" * 801, "int a;\n" * 800),
    (check_function_length, "core/a.c", "void\nf(void)\n{\n" + "    g();\n" * 71 + "}\n",
     "void\nf(void)\n{\n" + "    g();\n" * 70 + "}\n"),
    (check_brace, "core/a.c", "static void f(int a) {\n}\n", "static void\nf(int a)\n{\n}\n"),
    (check_unfinished, "core/a.c", "/* " + "TO" + "DO: later */\n", "/* done */\n"),
    (check_header, "core/a.h", "#ifndef A\n#define A\n#endif\n",
     "/* a: x.\n * Does:    y.\n */\n#ifndef RINGPOST_CORE_A_H\n#define RINGPOST_CORE_A_H\n#endif\n"),
    (check_opening, "core/a.c", "#include <string.h>\n", "/* why. */\n#include <string.h>\n"),
    (check_banned_calls, "core/a.c", "    n = atoi(text);\n", '    log("atoi()"); /* strcpy() */ x->gets(1);\n'),
    (check_typedef, "core/a.c", "typedef struct a a_t;\n", "struct a { int b; };\n"),
]


def try_rules():
    """Returns the number of rules that find nothing in a wrong text, or something in a right one."""
    failures = 0
    for rule, path, wrong, right in RULES:
        if not list(rule(path, wrong)):
            print(f"check_style: {rule.__name__} does not find what it is for")
            failures += 1
        if list(rule(path, right)):
            print(f"check_style: {rule.__name__} finds fault with a right text")
            failures += 1
    return failures


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    if sys.argv[1:2] == ["--root"]:
        root = pathlib.Path(sys.argv[2])
    failed = try_rules()
    passed = len(RULES) - failed
    files = sorted(file for folder in LAYERS for file in (root / folder).rglob("*.[ch]"))
    for file in files:
        path = file.relative_to(root).as_posix()
        text = file.read_text(encoding="utf-8", errors="replace")
        findings = [(number, message) for rule, *_ in RULES for number, message in rule(path, text)]
        for number, message in findings:
            print(f"{path}:{number}: {message}")
        failed += 1 if findings else 0
        passed += 0 if findings else 1
    for path in SYSTEM_FILES:
        if files and not (root / path).exists():
            print(f"tests/check_style.py: SYSTEM_FILES names {path}, which does not exist")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
