import urllib.request


class Tracker:
    def track(self, event):
        urllib.request.urlopen("http://stats.internal", data=event.encode())  # BUG: LW101


class BaseView:
    tracker = Tracker()


class SearchView(BaseView):
    async def get(self, request):
        self.tracker.track("search")
        return await request.search()
