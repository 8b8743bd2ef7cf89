import subprocess


class Encoder:
    def encode(self, path):
        subprocess.run(["ffmpeg", "-i", path, path + ".mp4"])  # BUG: LW101


class Plugin:
    encoder = None

    def setup(self):
        self.encoder = Encoder()

    async def on_upload(self, path):
        self.encoder.encode(path)
