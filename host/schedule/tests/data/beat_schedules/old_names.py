# Celery 3: the setting in capitals without an underscore, timedelta, a list of arguments, a space before the colon.
from datetime import timedelta
from celery.schedules import crontab

CELERYBEAT_SCHEDULE = {
    'update-db' : {
        'task' : 'tasks.update_database',
        # 'schedule': timedelta(minutes=1)
        'schedule' : timedelta(seconds=10)
    },
    'sync-mirror' : {
        'task' : 'rsync',
        'schedule' : crontab(hour=8, minute=50, day_of_week=3),
        'args' : ["mirror"],
        'options' : {'routing_key': 'small', 'queue': 'small'}
    }
}
