# Fields of crontab: numbers, strings, lists, tuples, sets, ranges, names, all positional.
from celery.schedules import crontab

beat_schedule = {
    'every-minute': {'task': 't.a', 'schedule': crontab()},
    'list': {'task': 't.b', 'schedule': crontab(minute=[5, 42], hour=(12, 17))},
    'set': {'task': 't.c', 'schedule': crontab(minute={0, 30}, hour=range(8, 18))},
    'names': {'task': 't.d', 'schedule': crontab(30, 7, 'thursday', '8-14', 'Mar')},
    'spaces': {'task': 't.e', 'schedule': crontab(minute='0', day_of_week='1, 3')},
    'both-days': {'task': 't.f', 'schedule': crontab(minute='0', hour='9', day_of_month='1-7', day_of_week='tue')},
    'odd': {'task': 't.g', 'schedule': crontab(minute='*/50', hour='0,8-17/2', day_of_week='*/2')},
    'wrap': {'task': 't.h', 'schedule': crontab(minute='55-5/3', hour='22-2')},
    'text': {'task': 't.i', 'schedule': crontab.from_string('*/15 8-18 * * MON-FRI')},
}
