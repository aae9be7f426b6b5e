# Strings: both quotes, escapes, joined pieces, raw, triple, other scripts, braces and hashes inside.
from celery.schedules import crontab

CELERY_BEAT_SCHEDULE = {
    "it's \"quoted\"": {'task': 'mail.send', 'schedule': 60, 'args': (
        'He said "no"', "it's", '{"a": 1}', '# not a comment')},
    'joined': {'task': 'mail.'
                       'digest', 'schedule': crontab(minute=0), 'kwargs': {'path': r'C:\temp\new', 'sql': '''SELECT 1,
 2'''}},
    u'\u00fcbersicht': {'task': 'mail.übersicht', 'schedule': 60, 'kwargs': {'tab': 'a\tb', 'bytes': b'raw'}},
    '日落': {'task': 'mail.sunset', 'schedule': crontab(hour='18', minute='0')},
}
