# A Django settings module: other settings around it, a zone, trailing commas everywhere.
import os
from celery.schedules import crontab

CELERY_BROKER_URL = os.environ.get("BROKER_URL", "redis://localhost:6379/0")
CELERY_TIMEZONE = "Africa/Kampala"
CELERY_BEAT_SCHEDULE = {
    "company.check_access": {
        "task": "company.tasks.check_access",
        "schedule": crontab(minute=0, hour="*/6"),
    },
    "company.daily_statistics": {
        "task": "company.tasks.daily_statistics",
        "schedule": crontab(hour=0, minute=5,),  # daily at 00:05
        "options": {"queue": "reports", "expires": 3600,},
    },
}
CELERY_TASK_ALWAYS_EAGER = False
