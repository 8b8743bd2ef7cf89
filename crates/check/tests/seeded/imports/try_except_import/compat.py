try:
    from fastsleep import sleep_ms
except ImportError:
    import time

    def sleep_ms(ms):
        time.sleep(ms / 1000)  # BUG: LW101


async def blink(led):
    while True:
        led.toggle()
        sleep_ms(500)
