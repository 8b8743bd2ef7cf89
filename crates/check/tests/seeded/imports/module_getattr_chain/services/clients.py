import telnetlib3
import urllib.request


class Http:
    def get(self, url):
        return urllib.request.urlopen(url).read()  # BUG: LW101


http = Http()
telnet = telnetlib3
