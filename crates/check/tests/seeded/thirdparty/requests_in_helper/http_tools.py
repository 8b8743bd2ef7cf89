from http import HTTPStatus

import rest

OK = HTTPStatus.OK


def forecast(city):
    return rest.get_json("https://weather.internal", q=city)
