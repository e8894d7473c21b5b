FROM scratch
COPY build/shell/ /
COPY entrypoint.sh /entrypoint.sh
COPY build/bin/store /usr/bin/store
ENTRYPOINT ["/entrypoint.sh"]
CMD ["/usr/bin/store"]
VOLUME /data
