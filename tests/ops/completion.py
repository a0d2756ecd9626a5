#!/usr/bin/env python3
"""Completion in real shells: each is started on a terminal of its own, loads the script as its user would, and gets keys.

usage: completion.py MULL_BIN_DIR. A shell that is not installed is named and left out; exit 77 when one was."""
import os, pty, re, select, shutil, signal, subprocess, sys, tempfile, time

BIN = os.path.abspath(sys.argv[1])

# typed before TAB, and what the line has to become: a command, an action, a kind, an option, an option's value, a shell
CASES = [
    ("mull doct", "mull doctor"),
    ("mull ckpt verif", "mull ckpt verify"),
    ("mull node dra", "mull node drain"),
    ("mull submit annot", "mull submit annotate"),
    ("mull ps --outp", "mull ps --output"),
    ("mull ps --output w", "mull ps --output wide"),
    ("mull queue --simul", "mull queue --simulate"),
    ("mull completion f", "mull completion fish"),
]


class Shell:
    def __init__(self, argv, env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, env)
        self.text = ""

    def wait_for(self, wanted, seconds):
        """Reads until wanted is in what was drawn; False when it never was. Control sequences are left out."""
        until = time.monotonic() + seconds
        while wanted not in self.text:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return False
            try:
                raw = os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError:
                return False
            self.text += re.sub(r"\x00|\x0f|\x1b\[[0-9;?<>=]*[a-zA-Z]|\x1b\][^\x07]*\x07|\x1b[()][AB0-2]|\x1b[=>]|\r", "", raw)
        return True

    def settle(self):
        """Reads until nothing has come for a moment: the shell has drawn what it had to."""
        while select.select([self.fd], [], [], 0.3)[0]:
            os.read(self.fd, 65536)

    def keys(self, text):
        self.text = ""
        os.write(self.fd, text.encode())

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def start(shell, way, home):
    env = {"PATH": BIN + ":" + os.environ["PATH"], "HOME": home, "ZDOTDIR": home, "TERM": "vt100", "LANG": "C.UTF-8",
           "XDG_CONFIG_HOME": home + "/config", "XDG_DATA_HOME": home + "/data", "MULL_STATE": home + "/none"}

    def put(path, text):
        os.makedirs(os.path.dirname(home + "/" + path), exist_ok=True)
        with open(home + "/" + path, "w") as f:
            f.write(text)

    script = subprocess.run([BIN + "/mull", "completion", shell], check=True, capture_output=True, text=True).stdout
    if shell == "bash":
        put("rc", "PS1='ready> '\nbind 'set enable-bracketed-paste off'\nsource <(mull completion bash)\n")
        return Shell(["bash", "--noprofile", "--rcfile", home + "/rc", "-i"], env)
    if shell == "fish":
        put("config/fish/completions/mull.fish", script)
        put("config/fish/config.fish", "set -g fish_greeting\nset -g fish_autosuggestion_enabled 0\n"
                                       "function fish_prompt; echo -n 'ready> '; end\n")
        return Shell(["fish", "-i"], env)
    load = "source <(mull completion zsh)\n"
    if way == "fpath":  # as it is installed: the file is the function's body
        put("functions/_mull", script)
        load = ""
    put(".zshrc", "PS1='ready> '\nunset zle_bracketed_paste\nfpath=(%s/functions $fpath)\nautoload -Uz compinit\n"
                  "compinit -u -D\n%s" % (home, load))
    return Shell(["zsh", "-d", "-i"], env)


def check(shell, way):
    bad = 0
    with tempfile.TemporaryDirectory() as home:
        s = start(shell, way, home)
        try:
            if not s.wait_for("ready> ", 60):
                print("%s (%s): no prompt: %r" % (shell, way, s.text))
                return 1
            for typed, wanted in CASES:
                s.keys(typed)
                s.settle()
                s.keys("\t")
                rest = wanted[len(typed):]  # what TAB has to add
                if not s.wait_for(rest, 20):
                    print("%s (%s): %r and TAB gave %r, not %r" % (shell, way, typed, s.text, rest))
                    bad += 1
                s.keys("\x15")  # the line is empty again
                s.settle()
        finally:
            s.end()
    return bad


bad, missing = 0, []
for shell, way in (("bash", "source"), ("zsh", "source"), ("zsh", "fpath"), ("fish", "file")):
    if shutil.which(shell):
        bad += check(shell, way)
    elif shell not in missing:
        missing.append(shell)
if bad:
    sys.exit(1)
if missing:
    print("skipped: not installed, so completion in it was not tried: " + ", ".join(missing))
    sys.exit(77)
print("completion works in bash, zsh (sourced and from fpath) and fish")
