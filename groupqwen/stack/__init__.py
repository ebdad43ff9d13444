"""What `up` starts and `down` stops on this machine: Redis, PostgreSQL and Ray, kept alive by supervisord."""
