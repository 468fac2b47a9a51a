"""The relay: the public half of a tunnel.

A connection's way through it, one module a station:

1. `ingress` accepts, peeks the ClientHello and leads to one of two doors:
   agents or visitors (challenges come through the visitors' door).
   `farewell` is what anybody else is told.
2. `admission` says who may come in at all, `authorized` (with
   `authorized_watch`) which agents may attach.
3. `routing` knows which session owns a name.
4. `own` is the relay's own: its certificate (`certificate`, `certificate_watch`), and
   what visitors of its own names get (`ownnames`, `ownpage`, `ownchallenges`).

A relay's own way, from its sockets (`binding`, `entrances`) to its end (`draining`),
may begin with taking another one's place (`takeover`, `holding`) and end with
giving its own away (`successor`); the two meet at the `doorstep` and speak `handover`.

`admission` and `routing` decide and do nothing: no clock, no socket, no
`await` between a question and its answer.  Nothing here has a default tenant:
what cannot be read or is not known is closed.
"""
