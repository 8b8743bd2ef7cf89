import subprocess


class Shell:
    def run(self, command):
        return subprocess.run(command, shell=True)


class Parser:
    def __init__(self, text):
        self.text = text

    def run(self, rule):
        return [line for line in self.text.splitlines() if rule in line]

    def get(self, index):
        return self.text[index]


async def parse(text):
    parser = Parser(text)
    parser.get(0)  # OK: no queue, no session
    return parser.run("def")  # OK: no shell
