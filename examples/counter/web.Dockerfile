FROM scratch
COPY build/shell/ /
COPY entrypoint.sh /entrypoint.sh
COPY build/bin/web /usr/bin/web
ENTRYPOINT ["/entrypoint.sh"]
EXPOSE 8000
CMD ["/usr/bin/web"]
