"""An index as an HTTP service (extra ``serve``): ``crossknn serve INDEX``, or :func:`create_app` in your own server."""

from crossknn.server.app import create_app
from crossknn.server.options import ServerOptions
from crossknn.server.scheduler import Scheduler

__all__ = ["Scheduler", "ServerOptions", "create_app"]
