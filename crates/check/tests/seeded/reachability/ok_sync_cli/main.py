import argparse
import time
import urllib.request


def download(url, tries=3):
    for _ in range(tries):
        try:
            return urllib.request.urlopen(url).read()
        except OSError:
            time.sleep(1)
    return b""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    print(len(download(parser.parse_args().url)))  # OK: nothing async anywhere


if __name__ == "__main__":
    main()
