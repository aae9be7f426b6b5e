# A configuration class, as Flask projects have it, and a module under another name.
from celery import schedules


class Config(object):
    CELERY_TIMEZONE = 'Asia/Shanghai'
    CELERY = {
        'broker_url': 'redis://redis:6379/1',
        'beat_schedule': {
            'clean_zip_files': {'task': 'app.celery.clean_zip_files', 'schedule': schedules.crontab(minute=0, hour=0)},
            'country-rank': {'task': 'app.rank', 'schedule': schedules.crontab(day_of_month=2, hour=0, minute=0)},
        },
    }
