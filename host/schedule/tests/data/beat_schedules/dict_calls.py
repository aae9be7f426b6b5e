# dict() in place of braces, entries that are added and merged afterwards.
from datetime import timedelta
from celery.schedules import crontab

app.conf.update(
    timezone="Europe/Berlin",
    enable_utc=True,
    beat_schedule=dict(
        nightly=dict(task="etl.nightly", schedule=crontab(minute=0, hour=3)),
        hourly=dict(task="etl.hourly", schedule=timedelta(hours=1), args=[], kwargs={}),
    ),
)
app.conf.beat_schedule["weekly"] = {"task": "etl.weekly", "schedule": crontab(0, 4, "sun")}
app.conf.beat_schedule.update({
    "yearly": {"task": "etl.yearly", "schedule": crontab(0, 0, day_of_month=1, month_of_year=1)},
})
