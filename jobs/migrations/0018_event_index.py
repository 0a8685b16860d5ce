import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Django's own way would also drop the foreign key and check each event anew, under the strongest locks on both tables."""

    dependencies = [
        ('jobs', '0017_job_request_id'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                # found by their column: their names end in a hash
                migrations.RunSQL(
                    """
                    DO $$
                    DECLARE doomed regclass;
                    BEGIN
                        FOR doomed IN
                            SELECT indexrelid::regclass FROM pg_index JOIN pg_attribute ON attrelid = indrelid
                            WHERE indrelid = 'jobs_jobevent'::regclass AND attname = 'job_id'
                            AND indnatts = 1 AND indkey[0] = attnum AND indpred IS NULL AND NOT indisunique
                        LOOP
                            EXECUTE format('DROP INDEX %s', doomed);
                        END LOOP;
                    END $$
                    """,
                    """
                    CREATE INDEX IF NOT EXISTS jobs_jobevent_job_id ON jobs_jobevent (job_id);
                    CREATE INDEX IF NOT EXISTS jobs_jobevent_job_id_like ON jobs_jobevent (job_id varchar_pattern_ops);
                    """,
                ),
            ],
            state_operations=[
                migrations.AlterField(
                    model_name='jobevent',
                    name='job',
                    field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='events', to='jobs.job'),
                ),
            ],
        ),
    ]
