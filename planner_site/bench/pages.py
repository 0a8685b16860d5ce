"""The pages that must stay fast at size: each list's first page, as it is and filtered, and the dashboard."""

from __future__ import annotations

from urllib.parse import urlencode

MOST_QUERIES = 15  # of a list; the dashboard, which is none, has a few more
DASHBOARD = "admin dashboard"


def lists(job_id: str, batch_id: str, owner: str, pool_id: int) -> dict[str, str]:
    """Their addresses, by what they are; what is looked for in them is there."""

    def admin(model: str, **query: object) -> str:
        return f"/admin/jobs/{model}/?{urlencode(query)}"

    found = {
        "page of jobs": "/jobs/",
        "page of jobs, status": "/jobs/?status=failed",
        "page of jobs, search": "/jobs/?q=nightly",
        DASHBOARD: "/admin/",
        "admin jobs": admin("job"),
        **{f"admin jobs, {status}": admin("job", status=status) for status in ("completed", "pending", "held")},
        "admin jobs, pool": admin("job", pool__id__exact=pool_id),
        "admin jobs, pool and status": admin("job", pool__id__exact=pool_id, status="failed"),
        "admin jobs, search of a name": admin("job", q="nightly"),
        "admin jobs, search of nothing": admin("job", q="no such job"),
        "admin jobs, search of a batch": admin("job", q=batch_id),
        "admin jobs, search of an owner": admin("job", q=owner),
        "admin provisions": admin("provision"),
        **{
            f"admin provisions, {status}": admin("provision", status=status)
            for status in ("held", "failing", "released", "written_off")
        },
        "admin provisions, pool": admin("provision", pool__id__exact=pool_id),
        "admin provisions, search": admin("provision", q=job_id),
        "admin provisions, search of nothing": admin("provision", q="no such provision"),
        "admin timelines": admin("jobevent"),
        "admin timelines, search": admin("jobevent", q=job_id),
    }
    others = ("pool", "queue", "ownerquota", "servedmodel", "deploymenttemplate", "inputfile", "worker", "batchscan")
    found |= {f"admin {model}": admin(model) for model in (*others, "apitoken", "identity")}
    return found | {"admin files, search": admin("inputfile", q=owner)}
