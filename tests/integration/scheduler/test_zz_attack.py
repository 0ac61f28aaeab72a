import pytest
from tests.integration.scheduler.conftest import *
from tests.integration.scheduler.test_scheduler_preemption_differential import _compare
pytestmark = pytest.mark.cluster
@pytest.mark.timeout(500)
async def test_more(cluster):
    await _compare(cluster, range(7000, 7150))
