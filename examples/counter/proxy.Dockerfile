FROM scratch
COPY build/shell/ /
COPY entrypoint.sh /entrypoint.sh
COPY build/bin/proxy /usr/bin/proxy
ENTRYPOINT ["/entrypoint.sh"]
EXPOSE 80
CMD ["/usr/bin/proxy"]
