# As in Celery's guide: an attribute of the app, numbers and crontab, comments.
from celery.schedules import crontab

app.conf.beat_schedule = {
    # Every 30 seconds.
    'add-every-30-seconds': {
        'task': 'tasks.add',
        'schedule': 30.0,
        'args': (16, 16)
    },
    'add-every-monday-morning': {
        'task': 'tasks.add',
        'schedule': crontab(hour=7, minute=30, day_of_week=1),
        'args': (16, 16),
    },
}
app.conf.timezone = 'UTC'
